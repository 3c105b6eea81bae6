// The device and its stream: see device.h.

#include "device.h"

namespace tutti::cuda {

namespace {

Batch& own(gpu::Batch& batch) { return static_cast<Batch&>(batch); }

}  // namespace

Device::Device(std::shared_ptr<const Api> driver, DeviceFacts described, const std::string& cache)
    : gpu::Device(false),
      api(std::move(driver)),
      facts(std::move(described)),
      cubins(*api, cache, facts.name + ";" + std::to_string(api->cudaVersion)) {
  api->check(api->cuDevicePrimaryCtxRetain(&context_, facts.device), "opening the device");
  try {
    api->check(api->cuCtxSetCurrent(context_), "using the device");
    api->check(api->cuStreamCreate(&stream_, kStreamNonBlocking), "creating a stream");
  } catch (...) {
    api->cuDevicePrimaryCtxRelease(facts.device);
    throw;
  }
}

/** Makes the device's context that of the thread. Where that fails, so does what follows. */
void* Device::enter() noexcept {
  api->cuCtxSetCurrent(context_);
  return nullptr;
}

std::shared_ptr<gpu::Buffer> Device::newBuffer(uint64_t bytes) { return make<Buffer>(bytes); }
std::function<void(gpu::Batch&)> Device::clearing(const gpu::Buffer& buffer) {
  return [this, pointer = static_cast<const Buffer&>(buffer).pointer, bytes = buffer.size](gpu::Batch&) {
    api->check(api->cuMemsetD8Async(pointer, 0, bytes, stream_), "clearing memory");
  };
}
std::shared_ptr<gpu::Kernel> Device::newKernel(const gpu::KernelSource& source) { return make<Kernel>(source); }
std::shared_ptr<gpu::List> Device::newList(std::vector<gpu::Command> commands) {
  return make<List>(std::move(commands));
}

// Submitter ------------------------------------------------------------------------------------------------------

std::unique_ptr<gpu::Batch> Device::newBatch() { return std::make_unique<Batch>(); }

uint8_t* Device::newRing(uint64_t bytes) {
  void* pinned = nullptr;
  api->check(api->cuMemHostAlloc(&pinned, bytes, 0), "allocating pinned memory");
  return pinned_ = static_cast<uint8_t*>(pinned);
}

void Device::upload(gpu::Batch&, uint64_t from, gpu::Buffer& to, uint64_t offset, uint64_t bytes) {
  api->check(api->cuMemcpyHtoDAsync(static_cast<Buffer&>(to).pointer + offset, pinned_ + from, bytes, stream_),
             "writing to the device");
}

void Device::launch(gpu::Batch& batch, gpu::List& list, bool profile) {
  auto& recorded = static_cast<List&>(list);
  if (!profile) return recorded.launch(stream_);
  for (size_t i = 0; i < 2 * list.dispatches; ++i) own(batch).around.push_back(takeEvent(true));
  recorded.launchTimed(stream_, own(batch).around);
  batch.timed = true;
}

void Device::download(gpu::Batch&, gpu::Buffer& from, uint64_t offset, uint64_t to, uint64_t bytes) {
  api->check(api->cuMemcpyDtoHAsync(pinned_ + to, static_cast<Buffer&>(from).pointer + offset, bytes, stream_),
             "reading from the device");
}

void Device::submit(gpu::Batch& batch) {
  CUevent event = takeEvent(false);
  if (const CUresult result = api->cuEventRecord(event, stream_); result != kSuccess) {
    api->cuEventDestroy(event);
    api->fail(result, "recording an event");
  }
  own(batch).event = event;
}

CUevent Device::takeEvent(bool timed) {
  {
    std::lock_guard lock(eventsMutex_);
    auto& free = timed ? timedEvents_ : events_;
    if (!free.empty()) {
      CUevent event = free.back();
      free.pop_back();
      return event;
    }
  }
  CUevent event = nullptr;
  // A blocking event lets the waiting thread sleep.
  api->check(api->cuEventCreate(&event, timed ? 0 : kEventBlockingSync | kEventDisableTiming), "creating an event");
  return event;
}

// Waiter ---------------------------------------------------------------------------------------------------------

void Device::wait(gpu::Batch& batch) {
  // Without an event something failed on the way: the device must still be done with pinned memory before it is used
  // again.
  CUevent event = own(batch).event;
  api->check(event != nullptr ? api->cuEventSynchronize(event) : api->cuStreamSynchronize(stream_),
             "running on the device");
}

void Device::readTimes(gpu::Batch& batch, std::vector<double>& microseconds) {
  const std::vector<CUevent>& around = own(batch).around;
  for (size_t i = 0; i + 1 < around.size(); i += 2) {
    float milliseconds = 0;
    api->check(api->cuEventElapsedTime(&milliseconds, around[i], around[i + 1]), "reading times");
    microseconds.push_back(1000.0 * milliseconds);
  }
}

void Device::recycle(gpu::Batch& batch) noexcept {
  std::lock_guard lock(eventsMutex_);
  if (own(batch).event != nullptr) events_.push_back(own(batch).event);
  timedEvents_.insert(timedEvents_.end(), own(batch).around.begin(), own(batch).around.end());
}

// End ------------------------------------------------------------------------------------------------------------

void Device::waitForDevice() noexcept { api->cuStreamSynchronize(stream_); }

void Device::destroyAll() noexcept {
  for (CUevent event : events_) api->cuEventDestroy(event);
  for (CUevent event : timedEvents_) api->cuEventDestroy(event);
  if (pinned_ != nullptr) api->cuMemFreeHost(pinned_);
  api->cuStreamDestroy(stream_);
  api->cuCtxSetCurrent(nullptr);
  api->cuDevicePrimaryCtxRelease(facts.device);
}

}  // namespace tutti::cuda
