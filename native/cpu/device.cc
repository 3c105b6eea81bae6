// Memory, libraries and the queue's thread.

#ifndef _WIN32

#include "device.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "../common/error.h"

namespace tutti::cpu {
namespace {

// From here on memory is mapped: the system hands out zero pages when they are first touched.
constexpr uint64_t kMapBytes = 1 << 20;
// Nanoseconds. What is done sooner is done in the thread that submits it: to wake the queue's thread and to be woken by
// it takes 20 to 100 microseconds, and the event loop is held up no longer than by a small collection of garbage.
constexpr double kShort = 250'000;
// Below this a copy is as good as working on the host's memory.
constexpr uint64_t kPassingBytes = 4096;
// What elements of any type need.
constexpr uintptr_t kElementAlignment = 8;
// Results from here on are worth a system call.
constexpr uint64_t kLargeResult = 4 << 20;
constexpr uintptr_t kLargePage = 2 << 20;

std::string megabytes(uint64_t bytes) { return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB"; }

using Clock = std::chrono::steady_clock;
double nanosSince(Clock::time_point start) {
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

/** The system gives memory page by page as it is first touched, which takes longer than to fill it: large pages help. */
void wantLargePages([[maybe_unused]] unsigned char* memory, [[maybe_unused]] uint64_t bytes) {
#ifdef MADV_HUGEPAGE
  const uintptr_t first = (reinterpret_cast<uintptr_t>(memory) + kLargePage - 1) / kLargePage * kLargePage;
  const uintptr_t last = (reinterpret_cast<uintptr_t>(memory) + bytes) / kLargePage * kLargePage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

/** By what its list has taken before. To be asked while nothing runs. */
bool isShort(const Submission& submission) {
  if (submission.list) return submission.list->cost.known() && submission.list->cost.nanos() <= kShort;
  uint64_t bytes = 0;
  for (const HostWrite& write : submission.writes) bytes += write.to.bytes;
  for (const HostRead& read : submission.reads) bytes += read.from.bytes;
  return static_cast<double>(bytes) <= kShort;  // a gigabyte a second at least
}

/** Memory of the host that takes the place of buffers in the commands of a list, until this goes. */
class HostMemory {
 public:
  explicit HostMemory(const CommandList* list) : list_(list) {}
  ~HostMemory() {
    for (const Exchange& exchange : exchanges_) point(*exchange.usage, exchange.buffer->data());
  }
  HostMemory(const HostMemory&) = delete;
  HostMemory& operator=(const HostMemory&) = delete;

  /**
   * Lets `memory` stand for the range, if that is all of the buffer that the commands know. `writable`: they have to
   * write to it; otherwise they must not.
   */
  bool standsFor(const Slice& range, unsigned char* memory, bool writable) {
    const Buffer& buffer = *range.buffer;
    const Usage* usage = list_ == nullptr ? nullptr : list_->usage(buffer);
    if (usage == nullptr || range.offset != 0 || usage->end > range.bytes || usage->written != writable) return false;
    // Kernels may touch whole words.
    if (range.bytes < kPassingBytes || range.bytes % 4 != 0) return false;
    if (reinterpret_cast<uintptr_t>(memory) % kElementAlignment != 0) return false;
    if (find(range) != range.data()) return false;  // something stands for it already
    if (writable && range.bytes >= kLargeResult) wantLargePages(memory, range.bytes);
    exchanges_.push_back({&buffer, usage, memory});
    point(*usage, memory);
    return true;
  }

  /** Where the bytes of a range are. */
  unsigned char* find(const Slice& range) const {
    for (const Exchange& exchange : exchanges_)
      if (exchange.buffer == range.buffer.get()) return exchange.memory + range.offset;
    return range.data();
  }

 private:
  struct Exchange {
    const Buffer* buffer;
    const Usage* usage;
    unsigned char* memory;
  };

  static void point(const Usage& usage, unsigned char* memory) {
    for (const Usage::Place& place : usage.places) *place.pointer = memory + place.offset;
  }

  const CommandList* const list_;
  std::vector<Exchange> exchanges_;
};

}  // namespace

/** Taken by whoever sets busy_. */
class Device::Turn {
 public:
  explicit Turn(Device& device) : device_(device) {}
  ~Turn() { device_.endTurn(); }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  Device& device_;
};

CommandList::CommandList(std::vector<Command> commands) : commands_(std::move(commands)) {
  const auto use = [this](const Slice& slice, void*& pointer, bool writes) {
    Usage& usage = usages_[slice.buffer.get()];
    pointer = slice.data();
    usage.places.push_back({&pointer, slice.offset});
    usage.written = usage.written || writes;
    usage.end = std::max(usage.end, slice.offset + slice.bytes);
  };
  for (Command& command : commands_) {
    if (auto* dispatch = std::get_if<Dispatch>(&command)) {
      dispatch->pointers.resize(dispatch->bindings.size());
      for (size_t i = 0; i < dispatch->bindings.size(); i++)
        use(dispatch->bindings[i], dispatch->pointers[i], dispatch->kernel->writes[i]);
    } else if (auto* copy = std::get_if<Copy>(&command)) {
      use(copy->from, copy->source, false);
      use(copy->to, copy->target, true);
    } else if (auto* fill = std::get_if<Fill>(&command)) {
      use(fill->to, fill->target, true);
    }
  }
}

const Usage* CommandList::usage(const Buffer& buffer) const {
  const auto found = usages_.find(&buffer);
  return found == usages_.end() ? nullptr : &found->second;
}

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

void Device::runHere(Submission& submission) {
  {
    std::unique_lock lock(mutex_);
    idle_.wait(lock, [this] { return !busy_ && queue_.empty(); });
    busy_ = true;
  }
  const Turn turn(*this);
  execute(submission);
}

bool Device::runHereIfShort(Submission& submission) {
  {
    std::lock_guard lock(mutex_);
    if (busy_ || !queue_.empty() || !isShort(submission)) return false;
    busy_ = true;
  }
  const Turn turn(*this);
  execute(submission);
  return true;
}

void Device::endTurn() {
  bool more;
  {
    std::lock_guard lock(mutex_);
    busy_ = false;
    more = !queue_.empty() || stop_;
  }
  if (more) ready_.notify_one();
  idle_.notify_all();
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
      ready_.wait(lock, [this] { return !busy_ && (stop_ || !queue_.empty()); });
      if (queue_.empty()) break;
      next = std::move(queue_.front());
      queue_.pop_front();
      busy_ = true;
    }
    std::exception_ptr error;
    {
      const Turn turn(*this);
      try {
        execute(*next);
      } catch (...) {
        error = std::current_exception();
      }
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
  const auto start = Clock::now();
  HostMemory host(submission.list.get());
  for (const HostWrite& write : submission.writes) {
    if (write.passing && host.standsFor(write.to, const_cast<unsigned char*>(write.data), false)) continue;
    std::memcpy(host.find(write.to), write.data, write.to.bytes);
  }
  std::vector<bool> direct(submission.reads.size());
  for (size_t i = 0; i < submission.reads.size(); i++) {
    const HostRead& read = submission.reads[i];
    direct[i] = read.passing && host.standsFor(read.from, read.into, true);
  }
  if (submission.list) {
    double shared = 0;
    for (const Command& command : submission.list->commands()) {
      const auto* work = std::get_if<Dispatch>(&command);
      if (work != nullptr && ThreadPool::isShared(work->cost)) shared += work->cost.nanos();
    }
    pool_->expect(shared);
    for (Command& command : submission.list->commands()) {
      if (auto* work = std::get_if<Dispatch>(&command)) dispatch(*work, submission);
      else if (const auto* copy = std::get_if<Copy>(&command)) std::memmove(copy->target, copy->source, copy->to.bytes);
      else if (const auto* fill = std::get_if<Fill>(&command)) std::memset(fill->target, fill->byte, fill->to.bytes);
    }
  }
  for (size_t i = 0; i < submission.reads.size(); i++) {
    if (unwanted()) return;
    const HostRead& read = submission.reads[i];
    if (!direct[i]) std::memcpy(read.into, host.find(read.from), read.from.bytes);
  }
  if (submission.list) submission.list->cost.note(nanosSince(start));
}

void Device::dispatch(Dispatch& dispatch, Submission& submission) {
  Job job;
  job.kernel = dispatch.kernel->function;
  job.buffers = dispatch.pointers.data();
  job.scalars = dispatch.scalars.data();
  job.grid = dispatch.grid;
  job.workgroups = static_cast<uint64_t>(dispatch.grid[0]) * dispatch.grid[1] * dispatch.grid[2];
  job.scratchBytes = dispatch.kernel->scratchBytes;
  const auto start = submission.microseconds ? Clock::now() : Clock::time_point();
  if (!pool_->run(job, dispatch.cost)) {
    throw Error("E_OUT_OF_MEMORY", "cpu: no memory for " + megabytes(job.scratchBytes) + " of scratch a thread");
  }
  if (submission.microseconds) submission.microseconds->push_back(nanosSince(start) / 1000);
}

}  // namespace tutti::cpu

#endif  // _WIN32
