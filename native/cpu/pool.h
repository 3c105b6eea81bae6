// A persistent pool of threads that run one kernel's workgroups at a time.
//
// The caller of `run` works too, so a pool for n threads owns n - 1. Each thread has a share of the workgroups, the same part
// of every job: what it has written is still in its caches when the next job reads the same part. Shares are claimed in
// pieces, from the front by their owners and from the back by threads that have nothing left; each is one atomic word that
// holds the job's number and what is unclaimed. A thread that wakes late finds nothing there and touches nothing, so no
// dispatch waits for a thread that the system has put aside.
//
// Other threads cost: a cache line that travels where they spin, a system call and tens of microseconds where they
// sleep. So jobs carry what they took before, and a job that is done sooner than help would come stays on its thread.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

namespace tutti::cpu {

/** What a rendered kernel is: runs the workgroups [first, last) in linear order, x fastest. */
using KernelFn = void (*)(void* const* buffers, const uint32_t* scalars, unsigned char* scratch, const uint32_t* grid,
                          uint64_t first, uint64_t last);

/**
 * What something takes, learnt from its runs. A thread that is put aside in the middle of a run makes that run long, so
 * estimates fall at once and rise by degrees.
 */
class Cost {
 public:
  bool known() const { return nanos_ >= 0; }
  double nanos() const { return nanos_; }
  void note(double nanos) { nanos_ = known() && nanos > nanos_ ? std::min(nanos, nanos_ * 1.25 + 50) : nanos; }

 private:
  double nanos_ = -1;
};

struct Job {
  KernelFn kernel = nullptr;
  void* const* buffers = nullptr;
  const uint32_t* scalars = nullptr;
  const uint32_t* grid = nullptr;
  uint64_t workgroups = 0;
  /** Scratch that each thread needs. */
  size_t scratchBytes = 0;
};

/** A thread's scratch memory, aligned to a page; grows, never shrinks. */
class Scratch {
 public:
  /** Null if there is no memory. */
  unsigned char* atLeast(size_t bytes);

 private:
  struct Free {
    void operator()(unsigned char* p) const;
  };
  std::unique_ptr<unsigned char, Free> memory_;
  size_t bytes_ = 0;
};

class ThreadPool {
 public:
  explicit ThreadPool(unsigned threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  /**
   * Returns when all workgroups are done. One caller at a time. `cost`: of one thread that does all of it; learns.
   * False if a thread found no memory for its scratch.
   */
  bool run(const Job& job, Cost& cost);
  /** Whether a job is more than its caller does alone. */
  static bool isShared(const Cost& cost);
  /** Shared jobs of `nanos` in all are about to come: threads that sleep may wake up meanwhile. */
  void expect(double nanos);

 private:
  struct Worker {
    std::thread thread;
    /** The processor that it was last seen on; -1 if that is not known. */
    std::atomic<int> processor{-1};
  };

  /** What is left of a job when the caller has done workgroups before `first`. */
  bool share(const Job& job, uint64_t first, Cost& cost);
  /** Units of a job that a thread has claimed. */
  struct Piece {
    uint32_t begin = 0;
    uint32_t end = 0;
  };
  struct alignas(64) Share {
    /** Number of the job << 32 | first unclaimed unit << 16 | end of the unclaimed units. */
    std::atomic<uint64_t> word{0};
  };

  void wake(double nanos);
  void keepOffCaller();
  void work(Worker& self, unsigned number);
  uint32_t participate(unsigned self, Scratch& scratch);
  static bool claim(Share& share, bool own, Piece& piece);
  void run(const Piece& piece, Scratch& scratch);

  const unsigned threads_;
  /** Written by the caller while nothing is unclaimed or pending; read by who has claimed a piece. */
  Job job_;
  uint64_t first_ = 0;
  uint32_t units_ = 0;
  /** By thread, the caller's first. */
  const std::unique_ptr<Share[]> shares_;
  /** Number of the last job. */
  alignas(64) std::atomic<uint32_t> published_{0};
  /** Units that are not done. */
  alignas(64) std::atomic<uint32_t> pending_{0};
  alignas(64) std::atomic<uint32_t> wakeups_{0};
  std::atomic<uint32_t> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::atomic<bool> failed_{false};
  Scratch callerScratch_;
  std::vector<Worker> workers_;
};

}  // namespace tutti::cpu
