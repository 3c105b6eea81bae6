// The pool's claiming, waiting and waking.

#ifndef _WIN32

#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>

namespace tutti::cpu {
namespace {

// Some 0.15 ms: long enough to bridge the gap between two runs in a loop, where waking a thread was measured to cost as
// much again, and short enough not to burn a core between requests.
constexpr int kSpins = 12'000;
// What a thread claims of its own share at once, of what is left: little enough to leave work for threads that are done
// sooner, and less and less, so that all end together.
constexpr uint32_t kOwnPart = 4;
// Of a job that nobody knows, what the caller does to learn what it takes.
constexpr uint64_t kTrialPart = 8;
// Units have numbers of 16 bits.
constexpr uint64_t kMostUnits = 0xffff;
// Nanoseconds. Below the first a job stays on its thread; a unit is not made smaller than the second; each thread that
// sleeps is woken for as much work as the third.
constexpr double kWorthSharing = 4'000;
constexpr double kWorthClaiming = 1'000;
constexpr double kWorthWaking = 25'000;

// A thread without work lets threads go first that the system has queued behind it: the one that brings the work may be
// among them, and would wait for the end of a time slice (1.4 ms on Linux). Not at once, for between the kernels of a run
// the gaps are short, and where other processes compete it may be milliseconds until it is this thread's turn again.
constexpr int kSpinsBeforeYield = 1'000;
constexpr int kSpinsPerYield = 64;

constexpr size_t kPage = 4 << 10;
constexpr size_t kLargePage = 2 << 20;

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/** -1 where the system does not tell. */
int currentProcessor() {
#ifdef __linux__
  return sched_getcpu();
#else
  return -1;
#endif
}

/** Lets a thread run on all processors that the calling thread may use but one. */
void keepOff([[maybe_unused]] std::thread& thread, [[maybe_unused]] int processor) {
#ifdef __linux__
  cpu_set_t allowed;
  if (pthread_getaffinity_np(pthread_self(), sizeof allowed, &allowed) != 0) return;
  CPU_CLR(processor, &allowed);
  if (CPU_COUNT(&allowed) > 0) pthread_setaffinity_np(thread.native_handle(), sizeof allowed, &allowed);
#endif
}

using Clock = std::chrono::steady_clock;
double nanosSince(Clock::time_point start) {
  return std::chrono::duration<double, std::nano>(Clock::now() - start).count();
}

}  // namespace

void Scratch::Free::operator()(unsigned char* p) const { std::free(p); }

unsigned char* Scratch::atLeast(size_t bytes) {
  if (bytes > bytes_) {
    // Kernels walk through all of it again and again: in large pages that costs fewer look-ups of addresses.
    const size_t page = bytes > kLargePage / 2 ? kLargePage : kPage;
    const size_t rounded = (bytes + page - 1) / page * page;
    memory_.reset(static_cast<unsigned char*>(std::aligned_alloc(page, rounded)));
    bytes_ = memory_ ? rounded : 0;
#ifdef MADV_HUGEPAGE
    if (memory_ && page == kLargePage) madvise(memory_.get(), rounded, MADV_HUGEPAGE);
#endif
  }
  return memory_.get();
}

ThreadPool::ThreadPool(unsigned threads)
    : threads_(std::max(1u, threads)), shares_(std::make_unique<Share[]>(threads_)), workers_(threads_ - 1) {
  for (unsigned i = 1; i < threads_; i++) {
    Worker& worker = workers_[i - 1];
    worker.thread = std::thread([this, &worker, i] { work(worker, i); });
  }
}

ThreadPool::~ThreadPool() {
  stop_ = true;
  wakeups_.fetch_add(1);
  wakeups_.notify_all();
  for (Worker& worker : workers_) worker.thread.join();
}

bool ThreadPool::run(const Job& job, Cost& cost) {
  if (job.workgroups == 0) return true;
  const bool alone = threads_ == 1 || job.workgroups == 1;
  if (!alone && isShared(cost)) return share(job, 0, cost);
  unsigned char* scratch = callerScratch_.atLeast(job.scratchBytes);
  if (job.scratchBytes > 0 && scratch == nullptr) return false;
  const auto run = [&](uint64_t first, uint64_t last) {
    job.kernel(job.buffers, job.scalars, scratch, job.grid, first, last);
  };
  if (alone) {
    run(0, job.workgroups);
    return true;
  }
  const auto start = Clock::now();
  uint64_t done = 0;
  if (!cost.known()) {
    // The first part tells what the rest will take.
    done = (job.workgroups + threads_ * kTrialPart - 1) / (threads_ * kTrialPart);
    run(0, done);
    cost.note(nanosSince(start) / static_cast<double>(done) * static_cast<double>(job.workgroups));
    if (done == job.workgroups) return true;
    if (isShared(cost)) return share(job, done, cost);
  }
  run(done, job.workgroups);
  cost.note(nanosSince(start));
  return true;
}

bool ThreadPool::share(const Job& job, uint64_t first, Cost& cost) {
  const uint64_t left = job.workgroups - first;
  const double nanos = cost.nanos() * static_cast<double>(left) / static_cast<double>(job.workgroups);
  job_ = job;
  first_ = first;
  const auto most = std::max<uint64_t>(threads_, static_cast<uint64_t>(nanos / kWorthClaiming));
  units_ = static_cast<uint32_t>(std::min<uint64_t>({left, kMostUnits, most}));
  failed_.store(false, std::memory_order_relaxed);
  pending_.store(units_, std::memory_order_relaxed);
  const uint32_t number = published_.load(std::memory_order_relaxed) + 1;
  uint64_t begin = 0;
  for (unsigned i = 0; i < threads_; i++) {
    const uint64_t end = static_cast<uint64_t>(units_) * (i + 1) / threads_;
    // Publishes the above to who claims from the share.
    shares_[i].word.store(static_cast<uint64_t>(number) << 32 | begin << 16 | end, std::memory_order_release);
    begin = end;
  }
  published_.store(number);  // before sleepers are looked for, see `work`
  wake(nanos);
  const auto start = Clock::now();
  const uint32_t own = participate(0, callerScratch_);
  if (own > 0) {
    const double workgroups = static_cast<double>(own) / units_ * static_cast<double>(left);
    cost.note(nanosSince(start) / workgroups * static_cast<double>(job.workgroups));
  }
  int spins = 0;
  for (uint32_t pending; (pending = pending_.load(std::memory_order_acquire)) != 0;) {
    if (++spins < kSpins) relax();
    else pending_.wait(pending, std::memory_order_acquire);
  }
  return !failed_.load(std::memory_order_relaxed);
}

bool ThreadPool::isShared(const Cost& cost) { return cost.nanos() >= kWorthSharing; }

void ThreadPool::expect(double nanos) {
  if (threads_ > 1) wake(nanos);
}

/** As many sleepers as the work is worth: a thread spins a while before it sleeps again. */
void ThreadPool::wake(double nanos) {
  if (nanos < kWorthWaking) return;
  keepOffCaller();
  const uint32_t sleepers = sleepers_.load();
  if (sleepers == 0) return;
  wakeups_.fetch_add(1);
  if (nanos >= kWorthWaking * sleepers) {
    wakeups_.notify_all();
    return;
  }
  for (auto n = static_cast<uint32_t>(nanos / kWorthWaking); n > 0; n--) wakeups_.notify_one();
}

/**
 * A worker on the caller's processor waits there until the caller has done all the work alone: systems were seen to leave
 * it there for 15 ms while another processor had nothing to do.
 */
void ThreadPool::keepOffCaller() {
  const int here = currentProcessor();
  if (here < 0) return;
  for (Worker& worker : workers_)
    if (worker.processor.load(std::memory_order_relaxed) == here) keepOff(worker.thread, here);
}

/** False if nothing is left of the share. What its owner claims is the front, others take from the back. */
bool ThreadPool::claim(Share& share, bool own, Piece& piece) {
  uint64_t word = share.word.load(std::memory_order_acquire);
  for (;;) {
    const auto begin = static_cast<uint32_t>(word >> 16 & kMostUnits), end = static_cast<uint32_t>(word & kMostUnits);
    const uint32_t left = end - begin;
    if (left == 0) return false;
    const uint32_t count = own ? std::max(1u, left / kOwnPart) : (left + 1) / 2;
    const uint64_t rest = own ? word + (static_cast<uint64_t>(count) << 16) : word - count;
    // Acquires what `share` has published, also from a word that other claims have changed since: they carry it on.
    if (share.word.compare_exchange_weak(word, rest, std::memory_order_acquire, std::memory_order_acquire)) {
      piece = own ? Piece{begin, begin + count} : Piece{end - count, end};
      return true;
    }
  }
}

/** What is claimed keeps the job from ending, so its description stays as it is until `pending_` is counted down. */
void ThreadPool::run(const Piece& piece, Scratch& scratch) {
  unsigned char* memory = scratch.atLeast(job_.scratchBytes);
  if (job_.scratchBytes > 0 && memory == nullptr) {
    failed_.store(true, std::memory_order_relaxed);
    return;
  }
  const uint64_t each = (job_.workgroups - first_) / units_;
  const uint64_t longer = (job_.workgroups - first_) % units_;
  const auto boundary = [=, this](uint64_t i) { return first_ + each * i + std::min(i, longer); };
  job_.kernel(job_.buffers, job_.scalars, memory, job_.grid, boundary(piece.begin), boundary(piece.end));
}

/** Does its share of the current job, then what others have left of theirs. The units that it has done. */
uint32_t ThreadPool::participate(unsigned self, Scratch& scratch) {
  uint32_t total = 0;
  for (unsigned i = 0; i < threads_; i++) {
    Share& share = shares_[(self + i) % threads_];
    uint32_t done = 0;
    for (Piece piece; claim(share, i == 0, piece); done += piece.end - piece.begin) run(piece, scratch);
    if (done == 0) continue;
    total += done;
    // Releases what was written to the caller, who waits for the last.
    if (pending_.fetch_sub(done, std::memory_order_acq_rel) == done) pending_.notify_one();
  }
  return total;
}

void ThreadPool::work(Worker& self, unsigned number) {
  Scratch scratch;
  uint32_t seen = 0;
  int idle = 0;
  while (!stop_.load(std::memory_order_relaxed)) {
    if (idle % kSpinsPerYield == 0) self.processor.store(currentProcessor(), std::memory_order_relaxed);
    const uint32_t published = published_.load(std::memory_order_acquire);
    if (published != seen) {
      seen = published;
      participate(number, scratch);
      idle = 0;
      continue;
    }
    if (++idle < kSpins) {
      if (idle >= kSpinsBeforeYield && idle % kSpinsPerYield == 0) sched_yield();
      else relax();
      continue;
    }
    // Announce first, look again, then sleep: `share` publishes first, then looks for sleepers.
    sleepers_.fetch_add(1);
    const uint32_t wakeups = wakeups_.load();
    if (published_.load() == seen && !stop_.load()) wakeups_.wait(wakeups);
    sleepers_.fetch_sub(1);
    idle = 0;
  }
}

}  // namespace tutti::cpu

#endif  // _WIN32
