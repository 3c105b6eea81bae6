// The device's life and memory: see device.h.

#ifndef TUTTI_NO_VULKAN_HEADERS

#include "device.h"

#include <cstring>

namespace tutti::vulkan {

namespace {

constexpr VkMemoryPropertyFlags kVisible = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;

VkPhysicalDeviceMemoryProperties memoryOf(const Instance& instance, const DeviceFacts& facts) {
  VkPhysicalDeviceMemoryProperties memory{};
  instance.vkGetPhysicalDeviceMemoryProperties(facts.handle, &memory);
  return memory;
}

/** Reads from uncached device memory are slower than a staged copy by an order of magnitude. */
bool readsDirectly(const VkPhysicalDeviceMemoryProperties& memory, bool software) {
  for (uint32_t i = 0; i < memory.memoryTypeCount; ++i) {
    const VkMemoryPropertyFlags flags = memory.memoryTypes[i].propertyFlags;
    constexpr VkMemoryPropertyFlags wanted = kVisible | VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT;
    if ((flags & wanted) == wanted && (software || (flags & VK_MEMORY_PROPERTY_HOST_CACHED_BIT))) return true;
  }
  return false;
}

}  // namespace

Device::Device(std::shared_ptr<Instance> owner, DeviceFacts described, std::string cacheFile, bool forceStaging)
    : gpu::Device(!forceStaging && readsDirectly(memoryOf(*owner, described), described.software)),
      instance(std::move(owner)),
      facts(std::move(described)),
      memory_(memoryOf(*instance, facts)),
      mapped_(!forceStaging && readsDirectly(memory_, facts.software)),
      cacheFile_(std::move(cacheFile)) {
  device = createDevice(*instance, facts, vk);
  vk.vkGetDeviceQueue(device, facts.queueFamily, 0, &queue_);
  try {
    VkCommandPoolCreateInfo pool{};
    pool.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
    pool.flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT;
    pool.queueFamilyIndex = facts.queueFamily;
    check(vk.vkCreateCommandPool(device, &pool, nullptr, &transferPool_), "creating a command pool");
    loadCache();
  } catch (...) {
    if (transferPool_ != VK_NULL_HANDLE) vk.vkDestroyCommandPool(device, transferPool_, nullptr);
    vk.vkDestroyDevice(device, nullptr);
    throw;
  }
}

void Device::started() {
  patterns = make<Buffer>(1024);
  static const auto bytes = [] {  // outlives the job
    std::vector<uint8_t> values(1024);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint8_t>(i / 4);
    return values;
  }();
  if (patterns->mapped != nullptr) {
    std::memcpy(patterns->mapped, bytes.data(), bytes.size());
    return;
  }
  auto job = std::make_shared<gpu::Job>();
  job->writes.push_back({patterns, 0, const_cast<uint8_t*>(bytes.data()), bytes.size()});
  enqueue(std::move(job));
}

std::shared_ptr<gpu::Buffer> Device::newBuffer(uint64_t bytes) { return make<Buffer>(bytes); }
std::function<void(gpu::Batch&)> Device::clearing(const gpu::Buffer& buffer) {
  return [this, handle = static_cast<const Buffer&>(buffer).handle](gpu::Batch& batch) {
    vk.vkCmdFillBuffer(transferCommands(static_cast<Batch&>(batch)), handle, 0, VK_WHOLE_SIZE, 0);
  };
}
std::shared_ptr<gpu::Kernel> Device::newKernel(const gpu::KernelSource& source) { return make<Kernel>(source); }
std::shared_ptr<gpu::List> Device::newList(std::vector<gpu::Command> commands) {
  return make<List>(std::move(commands));
}

// Memory ---------------------------------------------------------------------------------------------------------

uint32_t Device::memoryType(uint32_t allowed, bool staging) const {
  const VkMemoryPropertyFlags wanted[] = {
      staging   ? kVisible | VK_MEMORY_PROPERTY_HOST_CACHED_BIT
      : mapped_ ? kVisible | VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_CACHED_BIT
                : static_cast<VkMemoryPropertyFlags>(VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT),
      staging   ? kVisible
      : mapped_ ? kVisible | VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT
                : static_cast<VkMemoryPropertyFlags>(0),
  };
  for (VkMemoryPropertyFlags flags : wanted)
    for (uint32_t i = 0; i < memory_.memoryTypeCount; ++i)
      if ((allowed >> i & 1) && (memory_.memoryTypes[i].propertyFlags & flags) == flags) return i;
  throw Error("E_DEVICE", "the device has no memory type for storage buffers");
}

MemoryBlock Device::allocateMemory(VkBuffer buffer, bool staging) {
  VkMemoryRequirements needs{};
  vk.vkGetBufferMemoryRequirements(device, buffer, &needs);
  VkMemoryAllocateInfo allocate{};
  allocate.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO;
  allocate.allocationSize = needs.size;
  allocate.memoryTypeIndex = memoryType(needs.memoryTypeBits, staging);
  MemoryBlock block;
  check(vk.vkAllocateMemory(device, &allocate, nullptr, &block.memory), "allocating device memory");
  try {
    if (staging || mapped_) {
      void* mapped = nullptr;
      check(vk.vkMapMemory(device, block.memory, 0, VK_WHOLE_SIZE, 0, &mapped), "mapping device memory");
      block.mapped = static_cast<uint8_t*>(mapped);
    }
    check(vk.vkBindBufferMemory(device, buffer, block.memory, 0), "binding device memory");
  } catch (...) {
    vk.vkFreeMemory(device, block.memory, nullptr);
    throw;
  }
  return block;
}

uint8_t* Device::newRing(uint64_t bytes) {
  VkBufferCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
  create.size = bytes;
  create.usage = VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;
  check(vk.vkCreateBuffer(device, &create, nullptr, &ring_), "creating a staging buffer");
  try {
    ringMemory_ = allocateMemory(ring_, true);
  } catch (...) {
    vk.vkDestroyBuffer(device, ring_, nullptr);
    ring_ = VK_NULL_HANDLE;
    throw;
  }
  return ringMemory_.mapped;
}

// End ------------------------------------------------------------------------------------------------------------

void Device::waitForDevice() noexcept {
  saveCache();
  vk.vkDeviceWaitIdle(device);
}

void Device::destroyAll() noexcept {
  patterns.reset();
  if (ring_ != VK_NULL_HANDLE) vk.vkDestroyBuffer(device, ring_, nullptr);
  if (ringMemory_.memory != VK_NULL_HANDLE) vk.vkFreeMemory(device, ringMemory_.memory, nullptr);
  for (VkFence fence : fences_) vk.vkDestroyFence(device, fence, nullptr);
  fences_.clear();
  vk.vkDestroyCommandPool(device, transferPool_, nullptr);
  vk.vkDestroyPipelineCache(device, pipelineCache, nullptr);
  vk.vkDestroyDevice(device, nullptr);
}

}  // namespace tutti::vulkan

#endif
