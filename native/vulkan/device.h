// An open Vulkan device: one queue, recorded lists are command buffers. Buffers are mapped where the host reads them
// fast.

#pragma once

#ifndef TUTTI_NO_VULKAN_HEADERS

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "../common/device.h"
#include "api.h"

namespace tutti::vulkan {

class Device;

class Buffer final : public gpu::Buffer {
 public:
  using Owner = Device;
  Buffer(const std::shared_ptr<Device>& device, uint64_t bytes);
  ~Buffer() override { retire(); }
  void destroy() override;

  VkBuffer handle = VK_NULL_HANDLE;

 private:
  Device& device_;
  VkDeviceMemory memory_ = VK_NULL_HANDLE;
};

class Kernel final : public gpu::Kernel {
 public:
  using Owner = Device;
  Kernel(const std::shared_ptr<Device>& device, const gpu::KernelSource& source);
  ~Kernel() override { retire(); }
  void destroy() override;

  VkDescriptorSetLayout setLayout = VK_NULL_HANDLE;
  VkPipelineLayout layout = VK_NULL_HANDLE;
  VkPipeline pipeline = VK_NULL_HANDLE;

 private:
  Device& device_;
};

/** Replayable; a second, instrumented recording is made at the first profiled submission. */
class List final : public gpu::List {
 public:
  using Owner = Device;
  List(const std::shared_ptr<Device>& device, std::vector<gpu::Command> commands);
  ~List() override { retire(); }
  void destroy() override;

  VkCommandBuffer recorded(bool profile);
  /** Two timestamps a dispatch, written by the instrumented recording. */
  VkQueryPool queries() const { return queries_; }

 private:
  VkCommandBuffer record(bool profile);
  void allocateSets();

  Device& device_;
  /** One a command; null but for dispatches with bindings. */
  std::vector<VkDescriptorSet> sets_;
  VkCommandPool pool_ = VK_NULL_HANDLE;
  VkDescriptorPool descriptors_ = VK_NULL_HANDLE;
  VkQueryPool queries_ = VK_NULL_HANDLE;
  VkCommandBuffer plain_ = VK_NULL_HANDLE;
  VkCommandBuffer instrumented_ = VK_NULL_HANDLE;
};

/** One queue submission. */
struct Batch final : gpu::Batch {
  std::vector<VkCommandBuffer> commands;
  /** Those of them that are the device's own, to be used again. */
  std::vector<VkCommandBuffer> transfers;
  /** The last of `commands`, while transfers are added to it. */
  VkCommandBuffer open = VK_NULL_HANDLE;
  VkFence fence = VK_NULL_HANDLE;
  bool submitted = false;
};

struct MemoryBlock {
  VkDeviceMemory memory = VK_NULL_HANDLE;
  uint8_t* mapped = nullptr;
};

class Device final : public gpu::Device {
 public:
  Device(std::shared_ptr<Instance> instance, DeviceFacts facts, std::string cacheFile, bool forceStaging);
  ~Device() override { shutDown(); }

  /** Memory for `buffer`, bound; host-visible memory is mapped. */
  MemoryBlock allocateMemory(VkBuffer buffer, bool staging);
  bool timesDispatches() const override { return facts.timestampBits > 0; }

  const std::shared_ptr<Instance> instance;
  const DeviceFacts facts;
  DeviceFunctions vk;
  VkDevice device = VK_NULL_HANDLE;
  VkPipelineCache pipelineCache = VK_NULL_HANDLE;
  /** 1 KiB where word i holds the byte i four times: the source for fills that are not whole words. */
  std::shared_ptr<Buffer> patterns;

 private:
  std::shared_ptr<gpu::Buffer> newBuffer(uint64_t bytes) override;
  std::function<void(gpu::Batch&)> clearing(const gpu::Buffer& buffer) override;
  std::shared_ptr<gpu::Kernel> newKernel(const gpu::KernelSource& source) override;
  std::shared_ptr<gpu::List> newList(std::vector<gpu::Command> commands) override;
  void started() override;
  void kernelsLoaded() override { saveCache(); }
  std::unique_ptr<gpu::Batch> newBatch() override;
  uint8_t* newRing(uint64_t bytes) override;
  void upload(gpu::Batch& batch, uint64_t from, gpu::Buffer& to, uint64_t offset, uint64_t bytes) override;
  void launch(gpu::Batch& batch, gpu::List& list, bool profile) override;
  void download(gpu::Batch& batch, gpu::Buffer& from, uint64_t offset, uint64_t to, uint64_t bytes) override;
  void submit(gpu::Batch& batch) override;
  void wait(gpu::Batch& batch) override;
  void readTimes(gpu::Batch& batch, std::vector<double>& microseconds) override;
  void recycle(gpu::Batch& batch) noexcept override;
  void waitForDevice() noexcept override;
  void destroyAll() noexcept override;
  /** Drivers that are torn down while they work crash. */
  std::chrono::milliseconds exitPatience() const override { return std::chrono::hours(24); }

  VkCommandBuffer transferCommands(Batch& batch);
  void endTransfers(Batch& batch);
  void loadCache();
  void saveCache();
  uint32_t memoryType(uint32_t allowed, bool staging) const;

  VkQueue queue_ = VK_NULL_HANDLE;
  VkCommandPool transferPool_ = VK_NULL_HANDLE;
  VkPhysicalDeviceMemoryProperties memory_{};
  const bool mapped_;
  VkBuffer ring_ = VK_NULL_HANDLE;
  MemoryBlock ringMemory_;
  std::string cacheFile_;
  size_t savedCacheBytes_ = 0;
  std::mutex cacheMutex_;

  std::mutex poolsMutex_;  // guards what follows
  std::vector<VkFence> fences_;
  std::vector<VkCommandBuffer> transfers_;
};

}  // namespace tutti::vulkan

#endif
