// The pool's claiming, waiting and waking.

#ifndef _WIN32

#include "pool.h"

#include <algorithm>
#include <cstdlib>

namespace tutti::cpu {
namespace {

// Long enough to bridge the gap between two dispatches of a list, short enough not to burn a core between requests.
constexpr int kSpins = 2000;
// Chunks a thread: enough to even out unequal workgroups, few enough to keep neighbours together.
constexpr uint64_t kChunksPerThread = 8;

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

void Scratch::Free::operator()(unsigned char* p) const { std::free(p); }

unsigned char* Scratch::atLeast(size_t bytes) {
  if (bytes > bytes_) {
    const size_t rounded = (bytes + 4095) / 4096 * 4096;
    memory_.reset(static_cast<unsigned char*>(std::aligned_alloc(64, rounded)));
    bytes_ = memory_ ? rounded : 0;
  }
  return memory_.get();
}

ThreadPool::ThreadPool(unsigned threads) : threads_(std::max(1u, threads)) {
  for (unsigned i = 1; i < threads_; i++) workers_.emplace_back([this] { work(); });
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  wakeups_.fetch_add(1);
  wakeups_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

bool ThreadPool::run(const Job& job) {
  if (job.workgroups == 0) return true;
  if (threads_ == 1 || job.workgroups == 1) {
    unsigned char* scratch = callerScratch_.atLeast(job.scratchBytes);
    if (job.scratchBytes > 0 && scratch == nullptr) return false;
    job.kernel(job.buffers, job.scalars, scratch, job.grid, 0, job.workgroups);
    return true;
  }
  job_ = job;
  chunks_ = static_cast<uint32_t>(std::min<uint64_t>(job.workgroups, threads_ * kChunksPerThread));
  failed_.store(false, std::memory_order_relaxed);
  pending_.store(chunks_, std::memory_order_relaxed);
  cursor_.store(static_cast<uint64_t>(++generation_) << 32 | chunks_);  // publishes the above
  if (sleepers_.load() > 0) {
    wakeups_.fetch_add(1);
    wakeups_.notify_all();
  }
  while (claimAndRun(callerScratch_)) {
  }
  int spins = 0;
  for (uint32_t left; (left = pending_.load(std::memory_order_acquire)) != 0;) {
    if (++spins < kSpins) relax();
    else pending_.wait(left, std::memory_order_acquire);
  }
  return !failed_.load(std::memory_order_relaxed);
}

/** Runs one chunk of the current job; false if none is left. */
bool ThreadPool::claimAndRun(Scratch& scratch) {
  uint64_t cursor = cursor_.load(std::memory_order_acquire);
  do {
    if (static_cast<uint32_t>(cursor) == 0) return false;
  } while (!cursor_.compare_exchange_weak(cursor, cursor - 1, std::memory_order_acq_rel, std::memory_order_acquire));
  // The claimed chunk keeps the job from ending, so its description stays as it is until the decrement below.
  const uint64_t chunk = chunks_ - static_cast<uint32_t>(cursor);
  unsigned char* memory = scratch.atLeast(job_.scratchBytes);
  if (job_.scratchBytes > 0 && memory == nullptr) {
    failed_.store(true, std::memory_order_relaxed);
  } else {
    const uint64_t each = job_.workgroups / chunks_;
    const uint64_t longer = job_.workgroups % chunks_;
    const auto boundary = [=](uint64_t i) { return each * i + std::min(i, longer); };
    job_.kernel(job_.buffers, job_.scalars, memory, job_.grid, boundary(chunk), boundary(chunk + 1));
  }
  if (pending_.fetch_sub(1, std::memory_order_acq_rel) == 1) pending_.notify_one();
  return true;
}

void ThreadPool::work() {
  Scratch scratch;
  int idle = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    if (claimAndRun(scratch)) {
      idle = 0;
      continue;
    }
    if (++idle < kSpins) {
      relax();
      continue;
    }
    // Announce first, look again, then sleep: `run` publishes first, then looks for sleepers.
    sleepers_.fetch_add(1);
    const uint32_t seen = wakeups_.load();
    if (static_cast<uint32_t>(cursor_.load()) == 0 && !stop_.load()) wakeups_.wait(seen);
    sleepers_.fetch_sub(1);
    idle = 0;
  }
}

}  // namespace tutti::cpu

#endif  // _WIN32
