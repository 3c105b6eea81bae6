// Memory, libraries and the queue's thread.

#ifndef _WIN32

#include "device.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "../common/async.h"

namespace tutti::cpu {
namespace {

// From here on memory is mapped: the system hands out zero pages when they are first touched.
constexpr uint64_t kMapBytes = 1 << 20;

std::string megabytes(uint64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

}  // namespace

Buffer::Buffer(std::shared_ptr<Accounting> accounting, uint64_t bytes)
    : accounting_(std::move(accounting)), bytes_(bytes) {
  const uint64_t before = accounting_->allocatedBytes.fetch_add(bytes);
  const uint64_t total = accounting_->totalBytes;
  if (bytes <= total && before <= total - bytes) {
    if (bytes >= kMapBytes) {
      void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      if (memory != MAP_FAILED) {
        data_ = static_cast<unsigned char*>(memory);
        mapped_ = bytes;
#ifdef MADV_HUGEPAGE
        madvise(memory, bytes, MADV_HUGEPAGE);
#endif
      }
    } else {
      const size_t rounded = std::max<size_t>(64, (bytes + 63) / 64 * 64);
      data_ = static_cast<unsigned char*>(std::aligned_alloc(64, rounded));
      if (data_ != nullptr) std::memset(data_, 0, rounded);
    }
  }
  if (data_ == nullptr) {
    accounting_->allocatedBytes.fetch_sub(bytes);
    throw Error("E_OUT_OF_MEMORY", "cpu: a buffer of " + megabytes(bytes) + " does not fit; " + megabytes(before) +
                                       " of " + megabytes(total) + " are in use");
  }
}

void Buffer::release() {
  if (data_ == nullptr) return;
  if (mapped_ > 0) munmap(data_, mapped_);
  else std::free(data_);
  data_ = nullptr;
  accounting_->allocatedBytes.fetch_sub(bytes_);
}

Buffer::~Buffer() { release(); }

Library::Library(const std::string& path) : path_(path), handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
  if (handle_ == nullptr) throw Error("E_KERNEL", "cpu: a compiled kernel does not load: " + std::string(dlerror()));
}

Library::~Library() { dlclose(handle_); }

KernelFn Library::function(const std::string& entry) const {
  void* symbol = dlsym(handle_, entry.c_str());
  if (symbol == nullptr) throw Error("E_KERNEL", "cpu: " + path_ + " has no function " + entry);
  return reinterpret_cast<KernelFn>(symbol);
}

Device::Device(unsigned threads, uint64_t memoryBytes)
    : threads_(std::max(1u, threads)),
      accounting_(new Accounting{memoryBytes}),
      pool_(std::make_unique<ThreadPool>(threads_)),
      thread_([this] { serve(); }) {}

Device::~Device() { shutdown(); }

std::shared_ptr<Buffer> Device::allocate(uint64_t bytes) {
  auto buffer = std::make_shared<Buffer>(accounting_, bytes);
  if (buffers_.size() >= sweepAt_) {
    std::erase_if(buffers_, [](const std::weak_ptr<Buffer>& weak) { return weak.expired(); });
    sweepAt_ = std::max<size_t>(64, buffers_.size() * 2);
  }
  buffers_.push_back(buffer);
  return buffer;
}

void Device::submit(std::shared_ptr<Submission> submission) {
  {
    std::lock_guard lock(mutex_);
    queue_.push_back(std::move(submission));
  }
  ready_.notify_one();
}

void Device::drain(std::function<void()> done) {
  {
    std::lock_guard lock(mutex_);
    drained_ = std::move(done);
    stop_ = true;
  }
  ready_.notify_one();
}

void Device::shutdown() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  ready_.notify_one();
  if (thread_.joinable()) thread_.join();
  pool_.reset();
  for (const std::weak_ptr<Buffer>& weak : buffers_) {
    if (const auto buffer = weak.lock()) buffer->release();
  }
  buffers_.clear();
}

void Device::serve() {
  for (;;) {
    std::shared_ptr<Submission> next;
    {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (queue_.empty()) break;
      next = std::move(queue_.front());
      queue_.pop_front();
    }
    std::exception_ptr error;
    try {
      execute(*next);
    } catch (...) {
      error = std::current_exception();
    }
    const auto done = std::move(next->done);
    done(error);
  }
  if (drained_) drained_();
}

void Device::execute(Submission& submission) {
  const auto unwanted = [&submission] {
    return submission.aborted != nullptr && submission.aborted->load(std::memory_order_acquire) != 0;
  };
  if (unwanted()) return;
  for (const HostWrite& write : submission.writes) std::memcpy(write.to.data(), write.data, write.to.bytes);
  if (submission.list) {
    for (const Command& command : submission.list->commands) {
      if (const auto* dispatch = std::get_if<Dispatch>(&command)) {
        Job job;
        job.kernel = dispatch->kernel->function;
        job.buffers = dispatch->pointers.data();
        job.scalars = dispatch->scalars.data();
        job.grid = dispatch->grid;
        job.workgroups = static_cast<uint64_t>(dispatch->grid[0]) * dispatch->grid[1] * dispatch->grid[2];
        job.scratchBytes = dispatch->kernel->scratchBytes;
        const auto start = std::chrono::steady_clock::now();
        if (!pool_->run(job)) throw Error("E_OUT_OF_MEMORY", "cpu: no memory for " + megabytes(job.scratchBytes) + " of scratch a thread");
        if (submission.microseconds) {
          const std::chrono::duration<double, std::micro> time = std::chrono::steady_clock::now() - start;
          submission.microseconds->push_back(time.count());
        }
      } else if (const auto* copy = std::get_if<Copy>(&command)) {
        std::memmove(copy->to.data(), copy->from.data(), copy->to.bytes);
      } else if (const auto* fill = std::get_if<Fill>(&command)) {
        std::memset(fill->to.data(), fill->byte, fill->to.bytes);
      }
    }
  }
  for (const HostRead& read : submission.reads) {
    if (unwanted()) return;
    std::memcpy(read.into, read.from.data(), read.from.bytes);
  }
}

}  // namespace tutti::cpu

#endif  // _WIN32
