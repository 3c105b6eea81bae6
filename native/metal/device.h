// An open Metal device: one command queue, recorded lists are indirect command buffers. Where host and device share one
// memory, buffers are seen by both.

#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "../common/device.h"
#include "archives.h"
#include "encoder.h"
#include "facts.h"
#include "times.h"

namespace tutti::metal {

class Device;

class Buffer final : public gpu::Buffer {
 public:
  using Owner = Device;
  Buffer(const std::shared_ptr<Device>& device, uint64_t bytes);
  ~Buffer() override { retire(); }
  void destroy() override;

  Ref handle;

 private:
  Device& device_;
};

class Kernel final : public gpu::Kernel {
 public:
  using Owner = Device;
  Kernel(const std::shared_ptr<Device>& device, const gpu::KernelSource& source);
  ~Kernel() override { retire(); }
  void destroy() override { pipeline = Ref(); }

  Ref pipeline;
};

/** Runs of dispatches become indirect command buffers, copies and fills between them are encoded anew each time. */
class List final : public gpu::List {
 public:
  using Owner = Device;
  List(const std::shared_ptr<Device>& device, std::vector<gpu::Command> commands);
  ~List() override { retire(); }
  void destroy() override;

  void encode(Encoder& encoder) const;
  /** One command, directly. */
  void issue(Encoder& encoder, const gpu::Command& command) const;
  /** One dispatch, directly. */
  void dispatch(id encoder, const gpu::Command& command) const;

 private:
  /** Commands from `first` up to `last`, which begin and end with a dispatch and have only barriers among them. */
  struct Run {
    size_t first;
    size_t last;
    NSUInteger dispatches;
    Ref indirect;
    std::vector<id> buffers;
  };

  std::vector<Run> findRuns() const;
  void record(Run& run);

  const Runtime& rt_;
  Device& device_;
  std::vector<Run> runs_;
  /** Scalars of recorded dispatches, each at a multiple of kConstantAlignment. */
  Ref constants_;
};

/** Tells a waiting thread that a command buffer has ended. */
class Signal {
 public:
  void set();
  void wait();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;
};

/** One command buffer, or several where dispatches are timed by them. */
struct Batch final : gpu::Batch {
  std::optional<Encoder> encoder;
  /** Something was uploaded that what comes next must see. */
  bool uploaded = false;
  /** Those that were committed. */
  std::vector<Ref> commands;
  /** Set after the last of them; null before it is committed. */
  std::shared_ptr<Signal> ended;
  std::optional<PassTimes> passes;
  /** For each dispatch the index of its command buffer or of its pass; nothing if it had nothing to do. */
  std::vector<std::optional<size_t>> timedBy;
};

class Device final : public gpu::Device {
 public:
  Device(const Runtime& runtime, DeviceFacts facts, const gpu::OpenOptions& options);
  ~Device() override { shutDown(); }

  id handle() const { return facts.device.get(); }

  const Runtime& runtime;
  const DeviceFacts facts;
  const Archives archives;
  /** For buffers that kernels use. */
  const NSUInteger storage;

 private:
  void* enter() noexcept override { return runtime.objc_autoreleasePoolPush(); }
  void leave(void* pool) noexcept override { runtime.objc_autoreleasePoolPop(pool); }
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
  void waitForDevice() noexcept override {}  // every batch has been waited for
  void destroyAll() noexcept override;

  Encoder& encoderOf(Batch& batch);
  void launchTimed(Batch& batch, const List& list);
  void commit(Batch& batch);

  Ref queue_;
  BytePrograms programs_;
  Ref ring_;
  const Clock clock_;
};

}  // namespace tutti::metal
