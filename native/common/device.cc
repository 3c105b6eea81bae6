// A device's life, its memory and its kernels: see device.h. The queue is in queue.cc.

#include "device.h"

#include <cstring>

namespace tutti::gpu {

namespace {

/** Buffers of direct devices up to this are cleared at once rather than by a job. */
constexpr uint64_t kClearedAtOnce = 64u << 10;

}  // namespace

void Resource::retire() { device_->retire(this); }

void Device::start() {
  submitter_ = std::thread([this] { submitterLoop(); });
  waiter_ = std::thread([this] { waiterLoop(); });
  Scope scope(*this);
  started();
}

// Resources ------------------------------------------------------------------------------------------------------

std::shared_ptr<Buffer> Device::allocate(uint64_t bytes) {
  Use use(*this);
  Scope scope(*this);
  std::shared_ptr<Buffer> buffer;
  try {
    try {
      buffer = newBuffer(bytes);
    } catch (const Error& error) {
      if (error.code() != "E_OUT_OF_MEMORY") throw;
      // Released memory is freed when the device has done with it.
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return jobs_.empty() && running_ == 0 && inFlight_ == 0; });
      lock.unlock();
      buffer = newBuffer(bytes);
    }
  } catch (...) {
    noteLoss(std::current_exception());
    throw;
  }
  if (direct_ && buffer->size <= kClearedAtOnce) {
    std::memset(buffer->mapped, 0, buffer->size);
    return buffer;
  }
  auto job = std::make_shared<Job>();
  // Nobody else can use mapped memory yet.
  if (direct_) {
    job->clear = [to = buffer->mapped, bytes = buffer->size](Batch&) { std::memset(to, 0, bytes); };
  } else {
    job->clear = clearing(*buffer);
  }
  enqueue(std::move(job));
  return buffer;
}

std::shared_ptr<List> Device::record(std::vector<Command> commands) {
  Scope scope(*this);
  return newList(std::move(commands));
}

std::vector<std::shared_ptr<Kernel>> Device::loadKernels(const std::vector<KernelSource>& sources) {
  std::vector<std::shared_ptr<Kernel>> kernels(sources.size());
  std::atomic<size_t> next{0};
  std::mutex failureMutex;
  std::exception_ptr failure;
  size_t failedAt = sources.size();
  const auto load = [&](size_t i) {
    Scope scope(*this);
    try {
      kernels[i] = newKernel(sources[i]);
    } catch (const Error& error) {
      noteLoss(std::current_exception());
      if (error.code() != "E_DEVICE") throw;
      throw Error("E_KERNEL", "kernel " + sources[i].name + ": " + error.what());
    }
  };
  const auto work = [&] {
    for (size_t i = next++; i < sources.size(); i = next++) {
      try {
        load(i);
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
  Scope scope(*this);
  kernelsLoaded();
  return kernels;
}

void Device::add(Resource& resource) {
  std::lock_guard lock(registryMutex_);
  if (destroyed_) {
    resource.destroy();
    throw closedError();
  }
  registry_.insert(&resource);
  allocatedBytes_ += resource.footprint();
}

void Device::retire(Resource* resource) {
  std::lock_guard lock(registryMutex_);
  if (registry_.erase(resource) == 0) return;
  resource->destroy();
  allocatedBytes_ -= resource->footprint();
}

void Device::releaseLater(std::function<void()> release) {
  {
    std::lock_guard lock(mutex_);
    if (!submitterDone_) {
      auto job = std::make_shared<Job>();
      job->release = std::move(release);
      jobs_.push_back(std::move(job));
      changed_.notify_all();
      return;
    }
  }
  // Nothing runs any more.
  Scope scope(*this);
  release();
}

// End ------------------------------------------------------------------------------------------------------------

Device::Use::Use(Device& device) : device_(device) {
  std::lock_guard lock(device_.mutex_);
  if (device_.closing_) throw closedError();
  ++device_.users_;
}
Device::Use::~Use() {
  std::lock_guard lock(device_.mutex_);
  --device_.users_;
  device_.changed_.notify_all();
}

void Device::noteLoss(const std::exception_ptr& error) {
  if (!error) return;
  try {
    std::rethrow_exception(error);
  } catch (const Error& known) {
    if (known.code() != "E_DEVICE_LOST") return;
    std::lock_guard lock(mutex_);
    if (!lost_) lost_ = error;
  } catch (...) {
  }
}

void Device::close(std::shared_ptr<Completion> done) {
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

void Device::closeAndJoin() {
  close(nullptr);
  if (submitter_.joinable()) submitter_.join();
  if (waiter_.joinable()) waiter_.join();
}

void Device::abandon() {
  std::deque<std::shared_ptr<Job>> forgotten;
  {
    std::unique_lock lock(mutex_);
    forgotten.swap(jobs_);
    closing_ = true;
    changed_.notify_all();
    if (!changed_.wait_for(lock, exitPatience(), [this] { return closed_; })) {
      // The device has more to do than the process should wait for: the driver ends it. Nothing of ours may go before.
      new std::shared_ptr<Device>(shared_from_this());
      new std::deque<std::shared_ptr<Job>>(std::move(forgotten));
      submitter_.detach();
      waiter_.detach();
      return;
    }
  }
  closeAndJoin();
}

void Device::end() {
  Scope scope(*this);
  waitForDevice();
  {
    std::lock_guard lock(mutex_);
    submitterDone_ = true;
  }
  {
    std::lock_guard lock(registryMutex_);
    for (Resource* resource : registry_) {
      resource->destroy();
      allocatedBytes_ -= resource->footprint();
    }
    registry_.clear();
    destroyed_ = true;
  }
  destroyAll();
}

void Device::shutDown() {
  // Not yet done only if start() was never called.
  if (!destroyed_) end();
}

}  // namespace tutti::gpu
