// The pool of host threads that share the threadgroups of a dispatch.
#include "machine.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "worker.h"

namespace vmetal {
namespace {

/** Metal permits to flush subnormal floats, and Apple's GPUs do: so does TUTTI_VIRTUAL_METAL_SUBNORMALS=flush. */
void setFloatMode() {
  static const bool keep = [] {
    const char* mode = std::getenv("TUTTI_VIRTUAL_METAL_SUBNORMALS");
    return !mode || std::strcmp(mode, "flush") != 0;
  }();
#if defined(__x86_64__)
  _mm_setcsr((_mm_getcsr() & ~0x8040u) | (keep ? 0u : 0x8040u));
#else
  uint64_t fpcr;
  asm volatile("mrs %0, fpcr" : "=r"(fpcr));
  fpcr = keep ? fpcr & ~(1ull << 24) : fpcr | (1ull << 24);
  asm volatile("msr fpcr, %0" ::"r"(fpcr));
#endif
}

class Pool {
 public:
  static Pool& instance() {
    static Pool* pool = new Pool();  // kept: its threads may still wait when the process ends
    return *pool;
  }

  Fault run(const Dispatch& d) {
    std::lock_guard one(whole_);
    installFaultHandlers();
    const uint64_t groups = uint64_t(d.groups[0]) * d.groups[1] * d.groups[2];
    const uint64_t work = groups * d.size[0] * d.size[1] * d.size[2];
    {
      std::lock_guard lock(mutex_);
      dispatch_ = &d;
      next_ = 0;
      groups_ = groups;
      // A chunk is long enough to be worth its start, and short enough to share out evenly.
      chunk_ = std::clamp<uint64_t>(groups / (threads_.size() * 8), 1, 1024);
      stopped_ = false;
      fault_ = {};
      wanted_ = groups > 1 && work > 2048 ? unsigned(threads_.size()) : 1;
      started_ = finished_ = 0;
      ++round_;
    }
    changed_.notify_all();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return finished_ == wanted_; });
    dispatch_ = nullptr;
    return std::move(fault_);
  }

 private:
  std::mutex whole_, mutex_;
  std::condition_variable changed_, done_;
  std::vector<std::thread> threads_;
  const Dispatch* dispatch_ = nullptr;
  uint64_t groups_ = 0, chunk_ = 1, round_ = 0;
  std::atomic<uint64_t> next_{0};
  std::atomic<bool> stopped_{false};
  unsigned wanted_ = 0, started_ = 0, finished_ = 0;
  Fault fault_;

  Pool() {
    unsigned n = std::thread::hardware_concurrency();
    if (const char* set = std::getenv("TUTTI_VIRTUAL_METAL_THREADS")) n = unsigned(std::atoi(set));
    n = std::clamp(n, 1u, 64u);
    for (unsigned i = 0; i < n; ++i) threads_.emplace_back([this] { loop(); });
    for (std::thread& t : threads_) t.detach();
  }

  void loop() {
    prepareThreadForFaults();
    setFloatMode();
    Worker worker;
    uint64_t seen = 0;
    for (;;) {
      const Dispatch* d;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return round_ != seen && started_ < wanted_; });
        seen = round_;
        ++started_;
        d = dispatch_;
      }
      work(worker, *d);
      {
        std::lock_guard lock(mutex_);
        ++finished_;
      }
      done_.notify_one();
    }
  }

  void work(Worker& worker, const Dispatch& d) {
    while (!stopped_) {
      const uint64_t first = next_.fetch_add(chunk_), last = std::min(first + chunk_, groups_);
      if (first >= groups_) return;
      for (uint64_t i = first; i < last && !stopped_; ++i) {
        const uint32_t position[3] = {uint32_t(i % d.groups[0]), uint32_t(i / d.groups[0] % d.groups[1]),
                                      uint32_t(i / d.groups[0] / d.groups[1])};
        if (worker.run(d, position)) continue;
        std::lock_guard lock(mutex_);
        if (fault_.kind == FaultKind::None) fault_ = worker.fault;
        stopped_ = true;
      }
    }
  }
};

}  // namespace

Fault run(const Dispatch& dispatch) {
  if (uint64_t(dispatch.groups[0]) * dispatch.groups[1] * dispatch.groups[2] == 0) return {};
  return Pool::instance().run(dispatch);
}

}  // namespace vmetal
