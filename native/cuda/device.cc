// The device's life, memory and kernels: see device.h.

#include "device.h"

#include <algorithm>
#include <chrono>

namespace tutti::cuda {

namespace {

/** How long an exiting process waits for work in flight. */
constexpr std::chrono::milliseconds kExitPatience{1000};

}  // namespace

Core::Core(std::shared_ptr<const Api> driver, DeviceFacts described) : api(std::move(driver)), facts(std::move(described)) {
  api->check(api->cuDevicePrimaryCtxRetain(&context_, facts.device), "opening the device");
  try {
    makeCurrent();
    api->check(api->cuStreamCreate(&stream_, kStreamNonBlocking), "creating a stream");
    void* pinned = nullptr;
    api->check(api->cuMemHostAlloc(&pinned, Ring::kBytes, 0), "allocating pinned memory");
    ring_.memory = static_cast<uint8_t*>(pinned);
  } catch (...) {
    if (stream_ != nullptr) api->cuStreamDestroy(stream_);
    api->cuDevicePrimaryCtxRelease(facts.device);
    throw;
  }
}

Core::~Core() {
  // Not yet done only if start() was never called.
  if (!destroyed_) destroyAll();
}

void Core::start() {
  submitter_ = std::thread([this] { submitterLoop(); });
  waiter_ = std::thread([this] { waiterLoop(); });
}

// Memory ---------------------------------------------------------------------------------------------------------

CUdeviceptr Core::allocate(uint64_t bytes) {
  makeCurrent();
  CUdeviceptr pointer = 0;
  CUresult result = api->cuMemAlloc(&pointer, bytes);
  if (result == kOutOfMemory) {
    // What was released is freed when the device has done with it.
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return releases_ == 0; });
    lock.unlock();
    result = api->cuMemAlloc(&pointer, bytes);
  }
  api->check(result, "allocating device memory");
  return pointer;
}

void Core::releaseLater(std::function<void()> release) {
  {
    std::lock_guard lock(mutex_);
    if (!submitterDone_) {
      auto job = std::make_shared<Job>();
      job->release = std::move(release);
      jobs_.push_back(std::move(job));
      ++releases_;
      changed_.notify_all();
      return;
    }
  }
  // Nothing runs any more.
  api->cuCtxSetCurrent(context_);
  release();
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
          makeCurrent();
          kernels[i] = std::make_shared<Kernel>(shared_from_this(), sources[i]);
        } catch (const Error& error) {
          noteLoss(error);
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

void Core::noteLoss(const Error& error) {
  if (error.code() != "E_DEVICE_LOST") return;
  std::lock_guard lock(mutex_);
  if (!lost_) lost_ = std::make_exception_ptr(error);
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
    std::unique_lock lock(mutex_);
    forgotten.swap(jobs_);
    for (const auto& job : forgotten) releases_ -= job->release ? 1 : 0;
    closing_ = true;
    changed_.notify_all();
    if (!changed_.wait_for(lock, kExitPatience, [this] { return closed_; })) {
      // The device has more to do than the process should wait for: the driver ends it. Nothing of ours may go before.
      new std::shared_ptr<Core>(shared_from_this());
      new std::deque<std::shared_ptr<Job>>(std::move(forgotten));
      submitter_.detach();
      waiter_.detach();
      return;
    }
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
  api->cuCtxSetCurrent(context_);
  api->cuStreamSynchronize(stream_);
  {
    std::lock_guard lock(mutex_);
    submitterDone_ = true;
  }
  {
    std::lock_guard lock(registryMutex_);
    for (Resource* resource : registry_) resource->destroy();
    registry_.clear();
    destroyed_ = true;
  }
  for (CUevent event : events_) api->cuEventDestroy(event);
  for (CUevent event : timedEvents_) api->cuEventDestroy(event);
  events_.clear();
  timedEvents_.clear();
  if (ring_.memory != nullptr) api->cuMemFreeHost(ring_.memory);
  ring_.memory = nullptr;
  api->cuStreamDestroy(stream_);
  api->cuCtxSetCurrent(nullptr);
  api->cuDevicePrimaryCtxRelease(facts.device);
}

}  // namespace tutti::cuda
