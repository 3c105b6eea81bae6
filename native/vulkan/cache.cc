// The pipeline cache on disk: written whole, believed only if it is the driver's own and undamaged.

#ifndef TUTTI_NO_VULKAN_HEADERS

#include <cstring>
#include <filesystem>
#include <fstream>

#include "../common/cache_file.h"
#include "device.h"

namespace tutti::vulkan {

namespace {

/** Header of a pipeline cache file. What follows is the driver's own, which some drivers do not check enough. */
struct CacheHeader {
  char magic[8];
  uint32_t vendorId, deviceId, driverVersion, apiVersion;
  uint8_t cacheUuid[VK_UUID_SIZE];
  uint64_t bytes, hash;
};
constexpr char kCacheMagic[8] = {'T', 'U', 'T', 'T', 'I', 'V', 'P', '1'};

CacheHeader cacheHeader(const DeviceFacts& facts, const std::vector<uint8_t>& data) {
  CacheHeader header{};
  std::memcpy(header.magic, kCacheMagic, sizeof kCacheMagic);
  header.vendorId = facts.vendorId;
  header.deviceId = facts.deviceId;
  header.driverVersion = facts.driverVersion;
  header.apiVersion = facts.apiVersion;
  std::memcpy(header.cacheUuid, facts.cacheUuid, VK_UUID_SIZE);
  header.bytes = data.size();
  header.hash = fnv1a(data.data(), data.size());
  return header;
}

}  // namespace

void Device::loadCache() {
  std::vector<uint8_t> data;
  if (!cacheFile_.empty()) {
    std::ifstream file(std::filesystem::u8path(cacheFile_), std::ios::binary | std::ios::ate);
    const std::streamoff size = file ? static_cast<std::streamoff>(file.tellg()) : 0;
    CacheHeader header{};
    if (size > static_cast<std::streamoff>(sizeof header) && file.seekg(0) &&
        file.read(reinterpret_cast<char*>(&header), sizeof header) &&
        header.bytes == static_cast<uint64_t>(size) - sizeof header) {
      data.resize(header.bytes);
      file.read(reinterpret_cast<char*>(data.data()), static_cast<std::streamsize>(data.size()));
      const CacheHeader expected = cacheHeader(facts, data);
      // Other driver, truncated or damaged: start afresh, and overwrite it.
      if (!file || std::memcmp(&header, &expected, sizeof header) != 0) data.clear();
    }
  }
  savedCacheBytes_ = data.size();
  VkPipelineCacheCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO;
  create.initialDataSize = data.size();
  create.pInitialData = data.empty() ? nullptr : data.data();
  check(vk.vkCreatePipelineCache(device, &create, nullptr, &pipelineCache), "creating a pipeline cache");
}

/** Atomically, and silently where the disk does not play along: a cache is no promise. */
void Device::saveCache() {
  if (cacheFile_.empty()) return;
  std::lock_guard lock(cacheMutex_);
  size_t size = 0;
  if (vk.vkGetPipelineCacheData(device, pipelineCache, &size, nullptr) != VK_SUCCESS) return;
  if (size == 0 || size == savedCacheBytes_) return;
  std::vector<uint8_t> data(size);
  if (vk.vkGetPipelineCacheData(device, pipelineCache, &size, data.data()) != VK_SUCCESS) return;
  data.resize(size);
  try {
    const CacheHeader header = cacheHeader(facts, data);
    if (writeWhole(cacheFile_, {bytesOf(header), {reinterpret_cast<const char*>(data.data()), data.size()}}))
      savedCacheBytes_ = size;
  } catch (const std::exception&) {
  }
}

}  // namespace tutti::vulkan

#endif
