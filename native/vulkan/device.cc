// The device's life, memory and kernels: see device.h.

#ifndef TUTTI_NO_VULKAN_HEADERS

#include <algorithm>
#include <cstring>
#include <exception>

#include "batch.h"

namespace tutti::vulkan {

Core::Core(std::shared_ptr<Instance> owner, DeviceFacts described, std::string cacheFile, bool forceStaging)
    : instance(std::move(owner)), facts(std::move(described)), cacheFile_(std::move(cacheFile)) {
  device = createDevice(*instance, facts, vk);
  vk.vkGetDeviceQueue(device, facts.queueFamily, 0, &queue_);
  instance->vkGetPhysicalDeviceMemoryProperties(facts.handle, &memory_);
  // Reads from uncached device memory are slower than a staged copy by an order of magnitude: only memory that the host
  // caches is used directly.
  constexpr VkMemoryPropertyFlags mappedFlags = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                                VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
  for (uint32_t i = 0; i < memory_.memoryTypeCount && !forceStaging; ++i) {
    const VkMemoryPropertyFlags flags = memory_.memoryTypes[i].propertyFlags;
    const bool mapped = (flags & mappedFlags) == mappedFlags;
    if (mapped && (facts.software || (flags & VK_MEMORY_PROPERTY_HOST_CACHED_BIT))) direct_ = true;
  }
  VkCommandPoolCreateInfo pool{};
  pool.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
  pool.flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT;
  pool.queueFamilyIndex = facts.queueFamily;
  check(vk.vkCreateCommandPool(device, &pool, nullptr, &transferPool_), "creating a command pool");
  loadCache();
}

Core::~Core() {
  // Reached with live threads only if start() was never called.
  if (!destroyed_) destroyAll();
}

void Core::start() {
  patterns = std::make_shared<Buffer>(shared_from_this(), 1024);
  submitter_ = std::thread([this] { submitterLoop(); });
  waiter_ = std::thread([this] { waiterLoop(); });
  auto job = std::make_shared<Job>();
  uint8_t bytes[1024];
  for (size_t i = 0; i < 1024; ++i) bytes[i] = static_cast<uint8_t>(i / 4);
  if (patterns->mapped != nullptr) {
    std::memcpy(patterns->mapped, bytes, sizeof bytes);
    return;
  }
  static uint8_t shared[1024];  // outlives the job; every device writes the same bytes
  std::memcpy(shared, bytes, sizeof bytes);
  job->writes.push_back({patterns, 0, shared, sizeof bytes});
  enqueue(std::move(job));
}

// Memory ---------------------------------------------------------------------------------------------------------

uint32_t Core::memoryType(uint32_t allowed, bool staging) const {
  constexpr VkMemoryPropertyFlags visible = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
  const VkMemoryPropertyFlags wanted[] = {
      staging ? visible | VK_MEMORY_PROPERTY_HOST_CACHED_BIT
      : direct_ ? visible | VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_CACHED_BIT
                : static_cast<VkMemoryPropertyFlags>(VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT),
      staging ? visible
      : direct_ ? visible | VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT
                : static_cast<VkMemoryPropertyFlags>(0),
  };
  for (VkMemoryPropertyFlags flags : wanted)
    for (uint32_t i = 0; i < memory_.memoryTypeCount; ++i)
      if ((allowed >> i & 1) && (memory_.memoryTypes[i].propertyFlags & flags) == flags) return i;
  throw Error("E_DEVICE", "the device has no memory type for storage buffers");
}

Core::MemoryBlock Core::allocateMemory(VkBuffer buffer, bool staging) {
  VkMemoryRequirements needs{};
  vk.vkGetBufferMemoryRequirements(device, buffer, &needs);
  VkMemoryAllocateInfo allocate{};
  allocate.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO;
  allocate.allocationSize = needs.size;
  allocate.memoryTypeIndex = memoryType(needs.memoryTypeBits, staging);
  MemoryBlock block;
  check(vk.vkAllocateMemory(device, &allocate, nullptr, &block.memory), "allocating device memory");
  try {
    if (staging || direct_) {
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

// Kernels --------------------------------------------------------------------------------------------------------

std::vector<std::shared_ptr<Kernel>> Core::loadKernels(const std::vector<KernelSource>& sources) {
  std::vector<std::shared_ptr<Kernel>> kernels(sources.size());
  std::atomic<size_t> next{0};
  std::mutex failureMutex;
  std::exception_ptr failure;
  size_t failedAt = sources.size();
  const auto work = [&] {
    for (size_t i = next++; i < sources.size(); i = next++) {
      try {
        try {
          kernels[i] = std::make_shared<Kernel>(shared_from_this(), sources[i]);
        } catch (const Error& error) {
          if (error.code() != "E_DEVICE") throw;
          throw Error("E_KERNEL", "kernel " + sources[i].name + ": " + error.what());
        }
      } catch (...) {
        std::lock_guard lock(failureMutex);
        if (i < failedAt) failure = std::current_exception(), failedAt = i;
      }
    }
  };
  const size_t threads = std::min<size_t>(std::max(1u, std::thread::hardware_concurrency()), sources.size());
  std::vector<std::thread> helpers;
  for (size_t i = 1; i < threads; ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
  saveCache();
  return kernels;
}

// End ------------------------------------------------------------------------------------------------------------

Core::Use::Use(Core& core) : core_(core) {
  std::lock_guard lock(core_.mutex_);
  if (core_.closing_) throw closedError();
  ++core_.users_;
}
Core::Use::~Use() {
  std::lock_guard lock(core_.mutex_);
  --core_.users_;
  core_.changed_.notify_all();
}

void Core::close(std::shared_ptr<Completion> done) {
  std::lock_guard lock(mutex_);
  closing_ = true;
  changed_.notify_all();
  if (!done) return;
  if (closed_) {
    done->resolve();
  } else {
    closers_.push_back(std::move(done));
  }
}

void Core::closeAndJoin() {
  close(nullptr);
  if (submitter_.joinable()) submitter_.join();
  if (waiter_.joinable()) waiter_.join();
}

void Core::abandon() {
  std::deque<std::shared_ptr<Job>> forgotten;
  {
    std::lock_guard lock(mutex_);
    forgotten.swap(jobs_);
  }
  closeAndJoin();
}

void Core::add(Resource* resource) {
  std::lock_guard lock(registryMutex_);
  if (destroyed_) throw closedError();
  registry_.insert(resource);
}

void Core::retire(Resource* resource) {
  std::lock_guard lock(registryMutex_);
  if (registry_.erase(resource) > 0) resource->destroy();
}

void Core::destroyAll() {
  saveCache();
  vk.vkDeviceWaitIdle(device);
  {
    std::lock_guard lock(registryMutex_);
    for (Resource* resource : registry_) resource->destroy();
    registry_.clear();
    destroyed_ = true;
  }
  patterns.reset();
  for (const auto& chunk : chunks_) {
    vk.vkDestroyBuffer(device, chunk->buffer, nullptr);
    vk.vkFreeMemory(device, chunk->block.memory, nullptr);
  }
  chunks_.clear();
  for (VkFence fence : fences_) vk.vkDestroyFence(device, fence, nullptr);
  fences_.clear();
  vk.vkDestroyCommandPool(device, transferPool_, nullptr);
  vk.vkDestroyPipelineCache(device, pipelineCache, nullptr);
  vk.vkDestroyDevice(device, nullptr);
}

}  // namespace tutti::vulkan

#endif
