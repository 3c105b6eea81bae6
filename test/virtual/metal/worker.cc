// The scheduler of a threadgroup. A fiber takes threads one after the other until one of them has to wait; the waiting
// thread keeps the fiber and another goes on. When all threads wait or have ended, the simdgroups' operations are done,
// one simdgroup after the other, and then the barrier.
#include "worker.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <new>

#include "memory.h"

namespace vmetal {
namespace {

constexpr size_t kPage = 4096, kSlot = kThreadgroupBytes + 4 * kPage;
std::string lineText(int place) { return std::to_string(place >> 10); }  // __MSL_HERE
constexpr uint8_t kPoison = 0xff;                                        // a NaN in every float type, -1 in integers

}  // namespace

Worker*& Worker::current() {
  static thread_local Worker* worker __attribute__((tls_model("initial-exec"))) = nullptr;
  return worker;
}

Worker::Worker() {
  // One slot a variable, with closed pages between.
  void* at = mmap(nullptr, kSlot * kMaxVariables, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  arena_ = static_cast<uint8_t*>(at);
}

/** Ends at the closed page, but for what the declared alignment takes. */
uint64_t Worker::variable(unsigned index) {
  const auto& v = dispatch_->kernel->variables[index];
  return reinterpret_cast<uint64_t>(arena_ + index * kSlot + 2 * kPage + kThreadgroupBytes - v.bytes) & ~(v.alignment - 1);
}

bool Worker::run(const Dispatch& dispatch, const uint32_t position[3]) {
  dispatch_ = &dispatch;
  group_.buffers = dispatch.buffers;
  for (int i = 0; i < 3; ++i) {
    group_.position[i] = position[i];
    group_.groups[i] = dispatch.groups[i];
    group_.size[i] = dispatch.size[i];
  }
  group_.next = group_.current = 0;
  group_.count = dispatch.size[0] * dispatch.size[1] * dispatch.size[2];
  for (unsigned i = 0; i < dispatch.kernel->variables.size(); ++i) {
    if (!opened_[i]) {
      mprotect(arena_ + i * kSlot + 2 * kPage, kThreadgroupBytes, PROT_READ | PROT_WRITE);
      opened_[i] = true;
    }
    std::memset(reinterpret_cast<void*>(variable(i)), kPoison, dispatch.kernel->variables[i].bytes);
  }
  waiting_ = 0;
  readyAt_ = readyEnd_ = 0;
  simd_ = 0;
  faultKind_ = FaultKind::None;
  current() = this;
  Stack* first = next();
  running_ = first;
  vmetal_switch(&home_, first->sp);
  current() = nullptr;
  if (faultKind_ == FaultKind::None) return true;
  // The fibers that waited are given up.
  for (unsigned i = 0; i < group_.count; ++i) lanes_[i].state = State::None;
  free_ = stacks_;
  describe();
  return false;
}

void Worker::start() {
  Worker& w = *current();
  w.dispatch_->kernel->entry(&w.group_);
  // This fiber's last thread has ended; the others wait or have ended too.
  Stack* own = w.running_;
  Stack* to = w.next();
  w.free_.push_back(own);
  w.running_ = to;
  vmetal_switch(&own->sp, to ? to->sp : w.home_);
  __builtin_unreachable();
}

void Worker::suspend(State state, const void* site, int place) {
  Lane& lane = lanes_[group_.current];
  const unsigned self = group_.current;
  lane.state = state;
  lane.site = site;
  lane.place = place;
  lane.stack = running_;
  ++waiting_;
  Stack* own = running_;
  Stack* to = next();
  if (to != own) {
    running_ = to;
    vmetal_switch(&own->sp, to->sp);
  }
  group_.current = self;
}

Stack* Worker::wake(unsigned thread) {
  Lane& lane = lanes_[thread];
  lane.state = State::None;
  --waiting_;
  group_.current = thread;
  return lane.stack;
}

Stack* Worker::next() {
  if (readyAt_ < readyEnd_) return wake(ready_[readyAt_++]);
  if (group_.next < group_.count) {
    if (free_.empty()) {
      stacks_.push_back(new Stack(unsigned(stacks_.size())));
      free_.push_back(stacks_.back());
    }
    Stack* fresh = free_.back();
    free_.pop_back();
    fresh->prepare(&Worker::start);
    return fresh;
  }
  if (waiting_ == 0) return nullptr;
  const unsigned simds = (group_.count + kSimdWidth - 1) / kSimdWidth;
  for (; simd_ < simds; ++simd_)
    if (resolveSimd(simd_)) return wake(ready_[readyAt_++]);
  releaseBarrier();
  return wake(ready_[readyAt_++]);
}

/**
 * Does one operation of a simdgroup: that which stands first in the source, so that lanes which took different branches
 * meet again behind them. False if none waits for one.
 */
bool Worker::resolveSimd(unsigned simd) {
  const auto before = [](const Lane& a, const Lane& b) { return a.place != b.place ? a.place < b.place : a.site < b.site; };
  const unsigned first = simd * kSimdWidth, last = std::min(first + kSimdWidth, group_.count);
  const void* site = nullptr;
  unsigned chosen = 0;
  for (unsigned i = first; i < last; ++i)
    if (lanes_[i].state == State::Collective && (!site || before(lanes_[i], lanes_[chosen]))) {
      site = lanes_[i].site;
      chosen = i;
    }
  if (!site) return false;
  uint64_t parts[kSimdWidth] = {};
  uint32_t active = 0;
  readyAt_ = readyEnd_ = 0;
  for (unsigned i = first; i < last; ++i) {
    if (lanes_[i].state != State::Collective || lanes_[i].site != site) continue;
    parts[i - first] = lanes_[i].part;
    active |= 1u << (i - first);
    ready_[readyEnd_++] = uint16_t(i);
  }
  group_.current = chosen;
  if (lanes_[chosen].operation) reinterpret_cast<void (*)(const uint64_t*, uint32_t)>(lanes_[chosen].operation)(parts, active);
  return true;
}

void Worker::releaseBarrier() {
  readyAt_ = readyEnd_ = 0;
  simd_ = 0;
  const Lane* first = nullptr;
  unsigned arrived = 0, missing = ~0u;
  for (unsigned i = 0; i < group_.count; ++i) {
    if (lanes_[i].state != State::Barrier) {
      if (missing == ~0u) missing = i;
      continue;
    }
    if (first && lanes_[i].site != first->site) {
      group_.current = i;
      fail(FaultKind::Other,
           "threads wait at different threadgroup barriers, of lines " + lineText(first->place) + " and " +
               lineText(lanes_[i].place),
           nullptr);
    }
    if (!first) first = &lanes_[i];
    ++arrived;
    ready_[readyEnd_++] = uint16_t(i);
  }
  if (arrived != group_.count) {
    const int place = first->place;
    group_.current = missing;
    fail(FaultKind::Other,
         "only " + std::to_string(arrived) + " of " + std::to_string(group_.count) +
             " threads reach the threadgroup barrier of line " + lineText(place),
         nullptr);
  }
}

void Worker::collective(uint64_t part, uint64_t operation, int place, const void* site) {
  Lane& lane = lanes_[group_.current];
  lane.part = part;
  lane.operation = operation;
  suspend(State::Collective, site, place);
}

void Worker::barrier(int place, const void* site) { suspend(State::Barrier, site, place); }

void Worker::leave() {
  void* dropped = nullptr;
  vmetal_switch(&dropped, home_);
  __builtin_unreachable();
}

void Worker::fail(FaultKind kind, const std::string& text, const void* site, int place) {
  faultKind_ = kind;
  faultText_ = text;
  faultSite_ = site;
  faultPlace_ = place;
  faultSignal_ = 0;
  leave();
}

void Worker::fault_at(uintptr_t address, const void* instruction, int signal) {
  faultKind_ = FaultKind::Access;
  faultText_.clear();
  faultAddress_ = address;
  faultSite_ = instruction;
  faultPlace_ = 0;
  faultSignal_ = signal;
  leave();
}

/** Puts the fault into words, back on the host thread's own stack. */
void Worker::describe() {
  fault.kind = faultKind_;
  std::string what = faultText_;
  if (faultSignal_) {
    Allocation near;
    if (Memory::instance().owns(faultAddress_) && Memory::instance().nearest(faultAddress_, near)) {
      const uintptr_t start = reinterpret_cast<uintptr_t>(near.start), end = start + near.bytes;
      what = faultAddress_ >= end    ? "access " + std::to_string(faultAddress_ - end) + " bytes past the end"
             : faultAddress_ < start ? "access " + std::to_string(start - faultAddress_) + " bytes before the start"
                                     : std::string("access inside");
      what += near.label.empty() ? " of a buffer" : " of buffer '" + near.label + "'";
      what += " of " + std::to_string(near.bytes) + " bytes";
      for (const Parameter& p : dispatch_->kernel->text.parameters)
        if (p.binding == Binding::Buffer && dispatch_->buffers[p.index] >= start && dispatch_->buffers[p.index] <= end)
          what += ", bound as '" + p.name + "' [[buffer(" + std::to_string(p.index) + ")]]";
    } else if (faultAddress_ >= reinterpret_cast<uintptr_t>(arena_) &&
               faultAddress_ < reinterpret_cast<uintptr_t>(arena_) + kSlot * kMaxVariables) {
      what = "access outside of threadgroup variable " +
             std::to_string((faultAddress_ - reinterpret_cast<uintptr_t>(arena_)) / kSlot);
    } else {
      const auto* at = reinterpret_cast<const void*>(faultAddress_);
      bool overflow = false;
      for (const Stack* s : stacks_) overflow = overflow || s->overflowed(at);
      char text[64];
      std::snprintf(text, sizeof text, "access to address 0x%lx, which is of no buffer",
                    static_cast<unsigned long>(faultAddress_));
      // The processor gives no address for a vector that is misaligned, nor for an address that none can have.
      what = overflow ? "stack overflow" : faultAddress_ ? text : "access to a misaligned vector or a wild address";
    }
  }
  const unsigned i = group_.current;
  const auto three = [](unsigned a, unsigned b, unsigned c) {
    return "(" + std::to_string(a) + ", " + std::to_string(b) + ", " + std::to_string(c) + ")";
  };
  std::string line = lineOf(faultSite_, *dispatch_->library);
  if (line.empty() && faultPlace_) line = "line " + lineText(faultPlace_);
  fault.text = "kernel '" + dispatch_->kernel->text.name + "': " + what + ", thread " +
               three(i % group_.size[0], i / group_.size[0] % group_.size[1], i / group_.size[0] / group_.size[1]) +
               " of threadgroup " + three(group_.position[0], group_.position[1], group_.position[2]) +
               (line.empty() ? "" : ", " + line);
}

}  // namespace vmetal

using vmetal::Worker;
#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT void __msl_collective(uint64_t part, uint64_t operation, int place) {
  Worker::current()->collective(part, operation, place, __builtin_return_address(0));
}
EXPORT void __msl_simdgroup_barrier(int, int place) { Worker::current()->collective(0, 0, place, __builtin_return_address(0)); }
EXPORT void __msl_barrier(int, int place) { Worker::current()->barrier(place, __builtin_return_address(0)); }
EXPORT unsigned __msl_lane() { return Worker::current()->lane(); }
EXPORT uint64_t __msl_threadgroup(unsigned index) { return Worker::current()->variable(index); }
EXPORT void __msl_fail(const char* text, int place) { Worker::current()->fail(vmetal::FaultKind::Other, text, nullptr, place); }
EXPORT void __msl_misaligned(uint64_t address, unsigned bytes) {
  char text[128];
  std::snprintf(text, sizeof text, "access to a vector of %u bytes at address 0x%lx, which is not a multiple of its size", bytes,
                static_cast<unsigned long>(address));
  // The call does not return: what follows it may be of another line.
  Worker::current()->fail(vmetal::FaultKind::Access, text, static_cast<const char*>(__builtin_return_address(0)) - 1);
}
