#include "barrier.h"

#include <bit>

namespace vcuda {
namespace {

void release(Block& block, uint32_t id) {
  NamedBarrier& b = block.barriers[id];
  for (Warp& w : block.warps) {
    bool any = false;
    for (size_t i = 0; i < w.splits.size(); ++i) {
      Split& s = w.splits[i];
      if (s.state != Split::State::BarrierWait || s.barrier != id) continue;
      const Op& op = w.kernel->code[s.pc];
      if (op.imm != kBarSync) {
        if (op.imm == kBarPopc || op.imm == kBarPopcNegated) {
          for (uint32_t bits = s.waiting; bits; bits &= bits - 1) w.reg<uint32_t>(op.r[0])[std::countr_zero(bits)] = b.count;
        } else {
          const bool value = op.imm == kBarAnd || op.imm == kBarAndNegated ? b.all : b.any;
          uint32_t& p = w.pred(op.r[0]);
          p = value ? p | s.waiting : p & ~s.waiting;
        }
      }
      s.state = Split::State::Runnable;
      ++s.pc;
      w.current = int(i);
      any = true;
    }
    if (any) {
      // Splits that were apart only because they arrived one after another go on as one.
      for (size_t i = 0; i < w.splits.size(); ++i)
        for (size_t j = i + 1; j < w.splits.size(); ++j) {
          Split &a = w.splits[i], &c = w.splits[j];
          if (a.state == Split::State::Runnable && c.state == Split::State::Runnable && a.pc == c.pc && a.parent == c.parent && a.rpc == c.rpc) {
            a.mask |= c.mask;
            c.state = Split::State::Free;
            w.current = int(i);
          }
        }
    }
  }
  std::fill(b.arrived.begin(), b.arrived.end(), 0u);
  b.active = false;
}

bool complete(const Block& block, const NamedBarrier& b) {
  if (b.expected == 0) {
    for (size_t i = 0; i < block.warps.size(); ++i)
      if (block.warps[i].live & ~b.arrived[i]) return false;
    return true;
  }
  uint32_t count = 0;
  for (const uint32_t mask : b.arrived) count += uint32_t(std::popcount(mask));
  return count >= b.expected;
}

}  // namespace

void barrierArrive(Warp& w, const Op& op, uint32_t pc, uint32_t group) {
  Block& block = *w.block;
  const int lane = std::countr_zero(group);
  const uint32_t id = w.reg<uint32_t>(op.r[1])[lane];
  if (id >= 16) fault(w, op, lane, kLaunchFailed, "barrier " + std::to_string(id) + " of 16");
  const uint32_t expected = op.r[2] == kNone ? 0 : w.reg<uint32_t>(op.r[2])[lane];
  if (expected % kLanes || (op.r[2] != kNone && expected == 0) || expected > 32 * uint32_t(block.warps.size()))
    fault(w, op, lane, kLaunchFailed, "a barrier of " + std::to_string(expected) + " threads in a block of " + std::to_string(block.threads) + ": not a multiple of 32 within the block");
  for (uint32_t bits = group; bits; bits &= bits - 1) {
    const int l = std::countr_zero(bits);
    if (w.reg<uint32_t>(op.r[1])[l] != id || (op.r[2] != kNone && w.reg<uint32_t>(op.r[2])[l] != expected))
      fault(w, op, l, kLaunchFailed, "the lanes of a warp name different barriers or counts");
  }
  NamedBarrier& b = block.barriers[id];
  if (!b.active) {
    b.active = true;
    b.expected = expected;
    b.count = 0;
    b.all = 1;
    b.any = 0;
    b.line = w.kernel->sources[op.source].line;
  } else if (b.expected != expected) {
    fault(w, op, lane, kLaunchFailed, "barrier divergence: barrier " + std::to_string(id) + " has " + std::to_string(expected) + " threads here and " + std::to_string(b.expected) + " at line " + std::to_string(b.line));
  }
  const uint32_t arriving = op.imm2 ? kAll : group;
  if (b.arrived[size_t(w.index)] & arriving)
    fault(w, op, lane, kLaunchFailed, "barrier " + std::to_string(id) + ": the same threads arrive twice before it completes");
  b.arrived[size_t(w.index)] |= arriving;
  if (op.imm >= kBarPopc) {
    uint32_t p = w.pred(op.r[3]);
    if (op.imm >= kBarPopcNegated) p = ~p;
    p &= group;
    b.count += uint32_t(std::popcount(p));
    if (p != group) b.all = 0;
    if (p) b.any = 1;
  }
  for (Split& s : w.splits) {
    if (s.state != Split::State::WarpWait || s.pc != pc || !(s.waiting & group)) continue;
    if (op.imm == kBarArrive) {
      s.state = Split::State::Runnable;
      ++s.pc;
    } else {
      s.state = Split::State::BarrierWait;
      s.barrier = id;
    }
  }
  if (complete(block, b)) release(block, id);
}

void barrierCheckAll(Block& block) {
  for (uint32_t id = 0; id < 16; ++id) {
    const NamedBarrier& b = block.barriers[id];
    if (b.active && b.expected == 0 && complete(block, b)) release(block, id);
  }
}

bool clusterBarrier(Warp& w, const Op& op, uint32_t mask) {
  Cluster& cluster = *w.block->cluster;
  const int lane = std::countr_zero(mask);
  if (op.imm == kClusterArrive) {
    if (w.clusterArrived & mask) fault(w, op, lane, kLaunchFailed, "barrier.cluster.arrive twice without a wait");
    w.clusterArrived |= mask;
    w.clusterPhase = cluster.phase;
    clusterBarrierCheck(cluster);
    return true;
  }
  if (mask & ~w.clusterArrived) fault(w, op, std::countr_zero(mask & ~w.clusterArrived), kLaunchFailed, "barrier.cluster.wait without an arrive");
  if (w.clusterPhase == cluster.phase) return false;
  w.clusterArrived &= ~mask;
  return true;
}

void clusterBarrierCheck(Cluster& cluster) {
  bool any = false;
  for (auto& block : cluster.blocks)
    for (Warp& w : block->warps) {
      const uint32_t here = w.clusterPhase == cluster.phase ? w.clusterArrived : 0;
      if (w.live & ~here) return;
      any |= here != 0;
    }
  if (!any) return;
  ++cluster.phase;
  for (auto& block : cluster.blocks)
    for (Warp& w : block->warps)
      for (size_t i = 0; i < w.splits.size(); ++i) {
        Split& s = w.splits[i];
        if (s.state != Split::State::ClusterWait) continue;
        w.clusterArrived &= ~s.waiting;
        s.state = Split::State::Runnable;
        ++s.pc;
        w.current = int(i);
      }
}

}  // namespace vcuda
