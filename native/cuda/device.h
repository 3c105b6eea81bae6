// An open CUDA device: one stream runs everything in order, recorded lists are CUDA graphs.

#pragma once

#include <memory>
#include <mutex>
#include <vector>

#include "../common/device.h"
#include "api.h"
#include "cubins.h"
#include "tensor_map.h"

namespace tutti::cuda {

class Device;

/** Device memory. Freed once the device has done with what was submitted before: cuMemFree would wait for that. */
class Buffer final : public gpu::Buffer {
 public:
  using Owner = Device;
  Buffer(const std::shared_ptr<Device>& device, uint64_t bytes);
  ~Buffer() override { retire(); }
  void destroy() override;

  CUdeviceptr pointer = 0;

 private:
  Device& device_;
};

class Kernel final : public gpu::Kernel {
 public:
  using Owner = Device;
  Kernel(const std::shared_ptr<Device>& device, const gpu::KernelSource& source);
  ~Kernel() override { retire(); }
  void destroy() override;

  CUmodule module = nullptr;
  CUfunction function = nullptr;
  const uint32_t dynamicShared;
  const std::vector<TensorMapSource> tensorMaps;

 private:
  void compile(const gpu::KernelSource& source);

  Device& device_;
};

/** A CUDA graph, captured once and launched by each submission. */
class List final : public gpu::List {
 public:
  using Owner = Device;
  List(const std::shared_ptr<Device>& device, std::vector<gpu::Command> commands);
  ~List() override { retire(); }
  void destroy() override;

  /** Enqueues the whole list. */
  void launch(CUstream stream) const;
  /** Same, with `events[2 i]` before and `events[2 i + 1]` after dispatch i. */
  void launchTimed(CUstream stream, const std::vector<CUevent>& events) const;

 private:
  void issue(const gpu::Command& command, CUstream stream) const;

  Device& device_;
  CUgraphExec graph_ = nullptr;
};

/** A part of the stream, up to an event. */
struct Batch final : gpu::Batch {
  CUevent event = nullptr;
  /** Around each dispatch, if the job is profiled. */
  std::vector<CUevent> around;
};

class Device final : public gpu::Device {
 public:
  /** `cache`: folder for machine code, or empty. */
  Device(std::shared_ptr<const Api> api, DeviceFacts facts, const std::string& cache);
  ~Device() override { shutDown(); }

  const std::shared_ptr<const Api> api;
  const DeviceFacts facts;
  const Cubins cubins;

 private:
  void* enter() noexcept override;
  std::shared_ptr<gpu::Buffer> newBuffer(uint64_t bytes) override;
  std::function<void(gpu::Batch&)> clearing(const gpu::Buffer& buffer) override;
  std::shared_ptr<gpu::Kernel> newKernel(const gpu::KernelSource& source) override;
  std::shared_ptr<gpu::List> newList(std::vector<gpu::Command> commands) override;
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

  CUevent takeEvent(bool timed);

  CUcontext context_ = nullptr;
  CUstream stream_ = nullptr;
  uint8_t* pinned_ = nullptr;
  std::mutex eventsMutex_;  // guards what follows
  std::vector<CUevent> events_;
  std::vector<CUevent> timedEvents_;
};

}  // namespace tutti::cuda
