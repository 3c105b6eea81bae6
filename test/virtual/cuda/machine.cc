// Runs decoded kernels: warps in lockstep over splits of their lanes, barriers, blocks over the host's threads.
//
// Divergence. The lanes of a warp that are at one place form a split. A branch that divides them makes children that
// meet again at the branch's immediate post-dominator. Splits are scheduled one after another but any of them may run,
// so that lanes of one warp can wait for each other (independent thread scheduling, as since sm_70).
#include <algorithm>
#include <bit>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

#include "barrier.h"
#include "memory.h"
#include "program.h"

namespace vcuda {

constexpr int kBudget = 2048;            // backward branches in one turn of a warp
constexpr int kPollRounds = 100000;      // rounds in which every warp only polls: a deadlock
constexpr uint32_t kSharedBase = 1024;   // below: reserved, so that a null pointer is out of bounds

int Warp::newSplit() {
  for (size_t i = 0; i < splits.size(); ++i)
    if (splits[i].state == Split::State::Free) {
      splits[i] = Split{};
      return int(i);
    }
  splits.emplace_back();
  return int(splits.size()) - 1;
}

namespace {

std::string triple(const uint32_t* v) {
  return "(" + std::to_string(v[0]) + "," + std::to_string(v[1]) + "," + std::to_string(v[2]) + ")";
}

std::string hex(uint32_t mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

uint32_t activeOf(const Warp& w, const Op& op, uint32_t mask) {
  if (op.guard == kNone) return mask;
  const uint32_t guard = w.pred(op.guard);
  return mask & (op.guardNegated ? ~guard : guard);
}

/** Children's lanes have come back (or ended): the parent runs on when all have. */
void settle(Warp& w, int index) {
  while (index >= 0) {
    Split& s = w.splits[size_t(index)];
    if (s.state != Split::State::Reconverging) return;
    if (s.mask == 0) {
      s.state = Split::State::Free;
      index = s.parent;
      continue;
    }
    if (s.arrived == s.mask) {
      s.state = Split::State::Runnable;
      w.current = index;
    }
    return;
  }
}

void join(Warp& w, int index) {
  Split& s = w.splits[size_t(index)];
  Split& parent = w.splits[size_t(s.parent)];
  parent.arrived |= s.mask;
  s.state = Split::State::Free;
  settle(w, s.parent);
}

void diverge(Warp& w, int index, const Op& op, uint32_t pc, uint32_t taken) {
  const uint32_t mask = w.splits[size_t(index)].mask;
  const uint32_t rest = mask & ~taken;
  const int other = w.newSplit();  // may move the splits
  Split& s = w.splits[size_t(index)];
  Split& a = w.splits[size_t(other)];
  a.state = Split::State::Runnable;
  a.pc = op.target;
  a.mask = taken;
  if (op.reconverge == kNone || op.reconverge == s.rpc) {
    a.rpc = s.rpc;
    a.parent = s.parent;
    s.mask = rest;
    s.pc = pc + 1;
    w.current = index;
    return;
  }
  a.rpc = op.reconverge;
  a.parent = index;
  s.state = Split::State::Reconverging;
  s.pc = op.reconverge;
  s.arrived = 0;
  const int next = w.newSplit();
  Split& b = w.splits[size_t(next)];
  b.state = Split::State::Runnable;
  b.pc = pc + 1;
  b.mask = rest;
  b.rpc = op.reconverge;
  b.parent = index;
  w.current = next;
}

/** The lanes of `ended` are no more. */
void end(Warp& w, int index, uint32_t ended) {
  w.live &= ~ended;
  for (int i = index; i >= 0; i = w.splits[size_t(i)].parent) w.splits[size_t(i)].mask &= ~ended;
  Split& s = w.splits[size_t(index)];
  if (s.mask == 0) {
    s.state = Split::State::Free;
    settle(w, s.parent);
  }
  if (w.live == 0) --w.block->liveWarps;
}

/** Splits that were released together at one place become one. */
void merge(Warp& w) {
  for (size_t i = 0; i < w.splits.size(); ++i) {
    Split& a = w.splits[i];
    if (a.state != Split::State::Runnable) continue;
    for (size_t j = i + 1; j < w.splits.size(); ++j) {
      Split& b = w.splits[j];
      if (b.state == Split::State::Runnable && a.pc == b.pc && a.parent == b.parent && a.rpc == b.rpc) {
        a.mask |= b.mask;
        b.state = Split::State::Free;
      }
    }
    w.current = int(i);
  }
}

uint32_t membersOf(const Warp& w, const Op& op, int lane) {
  return op.r[5] == kNone ? w.live : w.reg<uint32_t>(op.r[5])[lane] & w.live;
}

/** The usual case: every lane that the operation names is in `mask`, and they all name the same. */
bool allHere(const Warp& w, const Op& op, uint32_t mask) {
  if (op.r[5] == kNone) return mask == w.live;
  const uint32_t* members = w.reg<uint32_t>(op.r[5]);
  const uint32_t first = members[std::countr_zero(mask)];
  uint32_t different = 0;
  for (int l = 0; l < kLanes; ++l) different |= (members[l] ^ first) & (0 - ((mask >> l) & 1));
  return different == 0 && (first & w.live) == mask;
}

/** Executes a warp-wide operation at `pc` if all the lanes that it names are there. */
bool tryWarpOp(Warp& w, uint32_t pc) {
  uint32_t together = 0;
  for (const Split& s : w.splits)
    if (s.state == Split::State::WarpWait && s.pc == pc) together |= s.waiting;
  const Op& op = w.kernel->code[pc];
  bool any = false;
  for (uint32_t left = together; left;) {
    const int lane = std::countr_zero(left);
    const uint32_t members = membersOf(w, op, lane);
    uint32_t group = op.r[5] == kNone ? left : 0;
    for (uint32_t bits = op.r[5] == kNone ? 0 : left; bits; bits &= bits - 1) {
      const int l = std::countr_zero(bits);
      if (membersOf(w, op, l) == members) group |= 1u << l;
    }
    left &= ~group;
    if (group & ~members) fault(w, op, std::countr_zero(group & ~members), kLaunchFailed, "the executing lane is not in its own member mask " + hex(members));
    if (members & ~group) continue;
    if (op.flow == Flow::Barrier) {
      barrierArrive(w, op, pc, group);
    } else {
      op.run(w, op, group);
      for (Split& s : w.splits)
        if (s.state == Split::State::WarpWait && s.pc == pc && (s.waiting & group)) {
          s.state = Split::State::Runnable;
          ++s.pc;
        }
    }
    any = true;
  }
  if (any) merge(w);
  return any;
}

void runSplit(Warp& w, const int index) {
  const Op* const code = w.kernel->code.data();
  Split* const s = &w.splits[size_t(index)];
  uint32_t pc = s->pc;
  uint32_t mask = s->mask;
  const uint32_t rpc = s->rpc;
  for (;;) {
    if (pc == rpc) {
      s->pc = pc;
      join(w, index);
      return;
    }
    const Op& op = code[pc];
    uint32_t m = mask;
    if (op.guard != kNone) m = activeOf(w, op, mask);
    if (op.flow == Flow::Next) {
      if (m) op.run(w, op, m);
      ++pc;
      continue;
    }
    if (m == 0) {
      ++pc;
      continue;
    }
    switch (op.flow) {
      case Flow::Next: break;
      case Flow::Branch:
        if (m != mask) {
          diverge(w, index, op, pc, m);
          if (op.target <= pc) --w.budget;
          return;
        }
        if (op.target <= pc && --w.budget <= 0) {
          s->pc = op.target;
          return;
        }
        pc = op.target;
        break;
      case Flow::Indexed: {
        // Lane by lane: peel off the lanes that share the first one's target.
        const uint32_t* which = w.reg<uint32_t>(op.r[1]);
        const int first = std::countr_zero(m);
        const auto& targets = op.extra->values;
        if (which[first] >= targets.size()) fault(w, op, first, kInvalidPc, "brx.idx index " + std::to_string(which[first]) + " of " + std::to_string(targets.size()) + " targets");
        uint32_t same = 0;
        for (uint32_t bits = m; bits; bits &= bits - 1) {
          const int l = std::countr_zero(bits);
          if (which[l] == which[first]) same |= 1u << l;
        }
        Op branch = op;
        branch.target = uint32_t(targets[which[first]]);
        if (branch.target <= pc) --w.budget;
        if (same == mask) {
          pc = branch.target;
          if (w.budget <= 0) {
            s->pc = pc;
            return;
          }
          break;
        }
        // The others execute the brx again (or, where the guard is false, pass it).
        diverge(w, index, branch, pc - 1, same);
        return;
      }
      case Flow::Exit: {
        const uint32_t parentsLive = mask & ~m;
        s->pc = pc + 1;
        end(w, index, m);
        mask = parentsLive;
        // Others may have waited for exactly these lanes.
        for (size_t i = 0; i < w.splits.size(); ++i)
          if (w.splits[i].state == Split::State::WarpWait) tryWarpOp(w, w.splits[i].pc);
        barrierCheckAll(*w.block);
        clusterBarrierCheck(*w.block->cluster);
        return;
      }
      case Flow::Warp:
      case Flow::Barrier: {
        const bool aligned = op.flow == Flow::Warp || op.imm2;
        if (op.flow == Flow::Warp && allHere(w, op, m)) {
          op.run(w, op, m);
          ++pc;
          break;
        }
        s->pc = pc;
        s->waiting = m;
        if (!aligned) {
          s->state = Split::State::WarpWait;
          barrierArrive(w, op, pc, m);
          return;
        }
        if (op.r[5] != kNone) {
          for (uint32_t bits = m; bits; bits &= bits - 1) {
            const uint32_t members = membersOf(w, op, std::countr_zero(bits));
            if (members & mask & ~m)
              fault(w, op, std::countr_zero(bits), kLaunchFailed, "the member mask " + hex(members) + " names lanes " + hex(members & mask & ~m) + ", whose predicate is false here");
          }
        }
        s->state = Split::State::WarpWait;
        tryWarpOp(w, pc);
        if (s->state != Split::State::Runnable) return;
        // Executed at once (the usual case): go on if this split is still whole and the current one.
        if (w.current != index) return;
        pc = s->pc;
        mask = s->mask;
        break;
      }
      case Flow::Cluster:
        s->pc = pc;
        if (!clusterBarrier(w, op, m)) {
          s->state = Split::State::ClusterWait;
          s->waiting = m;
          clusterBarrierCheck(*w.block->cluster);
          if (s->state != Split::State::Runnable) return;
          pc = s->pc;
          break;
        }
        ++pc;
        break;
      case Flow::Poll:
        w.yield = false;
        op.run(w, op, m);
        ++pc;
        if (w.yield) {
          s->pc = pc;
          return;
        }
        break;
    }
  }
}

enum class Turn { Blocked, Polled, Ran };

Turn runWarp(Warp& w) {
  Turn turn = Turn::Blocked;
  w.budget = kBudget;
  while (w.live) {
    const size_t count = w.splits.size();
    if (w.current < 0 || size_t(w.current) >= count || w.splits[size_t(w.current)].state != Split::State::Runnable) {
      w.current = -1;
      for (size_t i = 0; i < count; ++i)
        if (w.splits[i].state == Split::State::Runnable) w.current = int(i);
      if (w.current < 0) return turn;
    }
    const int index = w.current;
    w.yield = false;
    runSplit(w, index);
    if (w.yield || w.budget <= 0) {
      // The next split's turn, so that lanes which spin do not starve those they wait for.
      const bool polled = w.yield;
      for (size_t k = 1; k <= w.splits.size(); ++k) {
        const size_t i = (size_t(index) + k) % w.splits.size();
        if (w.splits[i].state == Split::State::Runnable) {
          w.current = int(i);
          break;
        }
      }
      return polled && turn != Turn::Ran ? Turn::Polled : Turn::Ran;
    }
    turn = Turn::Ran;
  }
  return turn;
}

/** Nothing can move: says who waits where. */
[[noreturn]] void reportDeadlock(Cluster& cluster) {
  std::string text;
  int lines = 0;
  bool barrier = false, within = false;
  const Warp* at = nullptr;
  const Op* where = nullptr;
  int lane = 0;
  for (auto& block : cluster.blocks)
    for (Warp& w : block->warps)
      for (const Split& s : w.splits) {
        if (s.state == Split::State::Free || s.state == Split::State::Reconverging || s.mask == 0) continue;
        const Op& op = w.kernel->code[s.pc];
        barrier |= op.flow == Flow::Barrier;
        within |= s.state == Split::State::WarpWait;
        if (!at || (s.state == Split::State::WarpWait && w.splits.size() > 1 && lines == 0)) {
          at = &w;
          where = &op;
          lane = std::countr_zero(s.mask);
        }
        if (lines++ < 6) {
          const SourceLine& source = w.kernel->sources[op.source];
          text += "\n  block " + triple(block->id) + " warp " + std::to_string(w.index) + " lanes " + hex(s.mask) + " wait at line " +
                  std::to_string(source.line) + ": `" + source.text + "`";
        }
      }
  if (!at) throw Fault(kLaunchFailed, "internal: a block stopped with nothing waiting");
  fault(*at, *where, lane, kLaunchFailed,
        std::string(barrier && within ? "barrier divergence: some lanes of a warp reached the barrier, others cannot"
                    : barrier         ? "barrier deadlock: not all of the threads that the barrier waits for can reach it"
                                      : "deadlock: all threads wait for something that cannot happen") + text);
}

class ClusterRunner {
 public:
  explicit ClusterRunner(Launch& launch) : launch_(launch), kernel_(*launch.kernel) {
    cluster_.launch = &launch;
    threads_ = launch.block[0] * launch.block[1] * launch.block[2];
    const uint32_t warps = (threads_ + kLanes - 1) / kLanes;
    const uint32_t count = launch.cooperative ? launch.grid[0] * launch.grid[1] * launch.grid[2]
                                              : launch.cluster[0] * launch.cluster[1] * launch.cluster[2];
    for (uint32_t i = 0; i < count; ++i) {
      auto block = std::make_unique<Block>();
      block->cluster = &cluster_;
      block->threads = threads_;
      block->shared.resize(kSharedBase + kernel_.staticShared + launch.dynamicShared);
      block->marks.resize(block->shared.size());
      block->local.resize(size_t(kernel_.localBytes) * kLanes * warps);
      block->frames.resize(size_t(kernel_.frameBytes) * warps + 64);
      block->warps.resize(warps);
      uint8_t* frames = block->frames.data();
      frames += (64 - (uintptr_t(frames) & 63)) & 63;
      for (uint32_t w = 0; w < warps; ++w) {
        Warp& warp = block->warps[w];
        warp.frame = frames + size_t(kernel_.frameBytes) * w;
        warp.block = block.get();
        warp.kernel = &kernel_;
        warp.index = int(w);
        warp.local = block->local.data() + size_t(kernel_.localBytes) * kLanes * w;
        warp.localStride = kernel_.localBytes;
        warp.splits.reserve(16);
        constants(warp);
      }
      for (NamedBarrier& b : block->barriers) b.arrived.assign(warps, 0);
      cluster_.blocks.push_back(std::move(block));
    }
  }

  void run(uint64_t index) {
    const uint32_t clusters[3] = {launch_.grid[0] / launch_.cluster[0], launch_.grid[1] / launch_.cluster[1],
                                  launch_.grid[2] / launch_.cluster[2]};
    cluster_.id[0] = uint32_t(index % clusters[0]);
    cluster_.id[1] = uint32_t(index / clusters[0] % clusters[1]);
    cluster_.id[2] = uint32_t(index / clusters[0] / clusters[1]);
    cluster_.phase = 0;
    cluster_.asynchronous.clear();
    for (uint32_t i = 0; i < cluster_.blocks.size(); ++i) start(*cluster_.blocks[i], i);
    int polls = 0;
    auto watch = std::chrono::steady_clock::now();
    for (uint32_t round = 1;; ++round) {
      bool ran = false, polled = false, alive = false;
      for (auto& block : cluster_.blocks) {
        if (block->liveWarps == 0) continue;
        alive = true;
        for (Warp& w : block->warps) {
          if (!w.live) continue;
          const Turn turn = runWarp(w);
          ran |= turn == Turn::Ran;
          polled |= turn == Turn::Polled;
        }
      }
      if (!cluster_.asynchronous.empty()) {
        auto landing = std::move(cluster_.asynchronous);
        cluster_.asynchronous.clear();
        for (auto& f : landing) f();
        ran = true;
      }
      if (!alive) {
        for (auto& block : cluster_.blocks)
          for (Warp& w : block->warps)
            for (PendingBulk& b : w.bulk) b.complete(false);
        return;
      }
      if (launch_.stop.load(std::memory_order_relaxed)) return;
      if (!ran && !polled) reportDeadlock(cluster_);
      polls = ran ? 0 : polls + 1;
      if (polls > kPollRounds) reportDeadlock(cluster_);
      if ((round & 255) == 0) {
        static const double kLimit = [] {
          const char* text = std::getenv("TUTTI_VIRTUAL_CUDA_TIMEOUT");
          return text ? std::atof(text) : 600.0;
        }();
        if (std::chrono::duration<double>(std::chrono::steady_clock::now() - watch).count() > kLimit)
          throw Fault(kLaunchTimeout, "kernel " + kernel_.name + ": one block has run for more than " + std::to_string(int(kLimit)) + " s (TUTTI_VIRTUAL_CUDA_TIMEOUT)");
      }
    }
  }

 private:
  Launch& launch_;
  const Kernel& kernel_;
  Cluster cluster_;
  uint32_t threads_;

  void constants(Warp& w) {
    for (const Kernel::Constant& c : kernel_.constants) {
      if (c.predicate) {
        w.pred(c.at) = c.value ? kAll : 0;
        continue;
      }
      for (int l = 0; l < kLanes; ++l) std::memcpy(w.frame + c.at + size_t(l) * c.bytes, &c.value, c.bytes);
    }
  }

  void start(Block& block, uint32_t rank) {
    if (launch_.cooperative) {
      block.id[0] = rank % launch_.grid[0];
      block.id[1] = rank / launch_.grid[0] % launch_.grid[1];
      block.id[2] = rank / launch_.grid[0] / launch_.grid[1];
      block.rank = 0;
    } else {
      const uint32_t in[3] = {rank % launch_.cluster[0], rank / launch_.cluster[0] % launch_.cluster[1],
                              rank / launch_.cluster[0] / launch_.cluster[1]};
      for (int i = 0; i < 3; ++i) block.id[i] = cluster_.id[i] * launch_.cluster[i] + in[i];
      block.rank = rank;
    }
    std::memset(block.marks.data(), kUnset, block.marks.size());
    for (NamedBarrier& b : block.barriers) {
      std::fill(b.arrived.begin(), b.arrived.end(), 0u);
      b.active = false;
    }
    block.liveWarps = uint32_t(block.warps.size());
    block.groupState.clear();
    for (Warp& w : block.warps) {
      const uint32_t first = uint32_t(w.index) * kLanes;
      w.started = threads_ - first >= kLanes ? kAll : (1u << (threads_ - first)) - 1;
      w.live = w.started;
      w.splits.clear();
      w.splits.emplace_back();
      w.splits[0].state = Split::State::Runnable;
      w.splits[0].mask = w.live;
      w.current = 0;
      w.copies.clear();
      w.copyGroup.fill(0);
      w.bulk.clear();
      w.bulkGroup.fill(0);
      w.matmuls.clear();
      w.matmulGroup = 0;
      w.matmulFenced = false;
      w.matmulBusy.clear();
      w.clusterArrived = 0;
      w.ranges.fill({});
      specials(w);
    }
  }

  void specials(Warp& w) {
    const Block& block = *w.block;
    const uint32_t rank = launch_.cooperative ? 0 : block.rank;
    const uint32_t* cl = launch_.cluster;
    const uint32_t in[3] = {rank % cl[0], rank / cl[0] % cl[1], rank / cl[0] / cl[1]};
    for (const auto& [special, at] : kernel_.specials) {
      uint32_t* v = w.reg<uint32_t>(at);
      if (special == Special::GridId) {
        for (int l = 0; l < kLanes; ++l) w.reg<uint64_t>(at)[l] = launch_.gridId;
        continue;
      }
      for (uint32_t l = 0; l < kLanes; ++l) {
        const uint32_t t = uint32_t(w.index) * kLanes + l;
        const uint32_t* b = launch_.block;
        switch (special) {
          case Special::TidX: v[l] = t % b[0]; break;
          case Special::TidY: v[l] = t / b[0] % b[1]; break;
          case Special::TidZ: v[l] = t / b[0] / b[1]; break;
          case Special::NtidX: v[l] = b[0]; break;
          case Special::NtidY: v[l] = b[1]; break;
          case Special::NtidZ: v[l] = b[2]; break;
          case Special::CtaidX: v[l] = block.id[0]; break;
          case Special::CtaidY: v[l] = block.id[1]; break;
          case Special::CtaidZ: v[l] = block.id[2]; break;
          case Special::NctaidX: v[l] = launch_.grid[0]; break;
          case Special::NctaidY: v[l] = launch_.grid[1]; break;
          case Special::NctaidZ: v[l] = launch_.grid[2]; break;
          case Special::LaneId: v[l] = l; break;
          case Special::WarpId: v[l] = uint32_t(w.index); break;
          case Special::NwarpId: v[l] = 64; break;
          case Special::SmId: v[l] = (block.id[0] + block.id[1] * 7 + block.id[2] * 13) % 132; break;
          case Special::NsmId: v[l] = 132; break;
          case Special::LaneMaskEq: v[l] = 1u << l; break;
          case Special::LaneMaskLe: v[l] = (2u << l) - 1; break;
          case Special::LaneMaskLt: v[l] = (1u << l) - 1; break;
          case Special::LaneMaskGe: v[l] = ~((1u << l) - 1); break;
          case Special::LaneMaskGt: v[l] = ~((2u << l) - 1); break;
          case Special::TotalSmemSize:
          case Special::AggrSmemSize: v[l] = kernel_.staticShared + launch_.dynamicShared; break;
          case Special::DynamicSmemSize: v[l] = launch_.dynamicShared; break;
          case Special::ClusterIdX: v[l] = block.id[0] / cl[0]; break;
          case Special::ClusterIdY: v[l] = block.id[1] / cl[1]; break;
          case Special::ClusterIdZ: v[l] = block.id[2] / cl[2]; break;
          case Special::NclusterIdX: v[l] = launch_.grid[0] / cl[0]; break;
          case Special::NclusterIdY: v[l] = launch_.grid[1] / cl[1]; break;
          case Special::NclusterIdZ: v[l] = launch_.grid[2] / cl[2]; break;
          case Special::ClusterCtaIdX: v[l] = in[0]; break;
          case Special::ClusterCtaIdY: v[l] = in[1]; break;
          case Special::ClusterCtaIdZ: v[l] = in[2]; break;
          case Special::ClusterNctaIdX: v[l] = cl[0]; break;
          case Special::ClusterNctaIdY: v[l] = cl[1]; break;
          case Special::ClusterNctaIdZ: v[l] = cl[2]; break;
          case Special::ClusterCtaRank: v[l] = rank; break;
          case Special::ClusterNctaRank: v[l] = cl[0] * cl[1] * cl[2]; break;
          case Special::IsExplicitCluster: v[l] = cl[0] * cl[1] * cl[2] > 1; break;
          default: break;
        }
      }
    }
  }
};

/** The host threads that take part in launches. */
class Pool {
 public:
  static Pool& get() {
    static Pool* pool = new Pool();  // never destroyed: threads may outlive main
    return *pool;
  }

  /** Calls `work` on this thread and on up to `helpers` others; returns when all calls have. */
  void run(int helpers, const std::function<void()>& work) {
    auto job = std::make_shared<Job>();
    job->work = &work;
    job->wanted = std::min(helpers, int(threads_.size()));
    if (job->wanted > 0) {
      std::lock_guard lock(mutex_);
      jobs_.push_back(job);
      ready_.notify_all();
    }
    work();
    std::unique_lock lock(mutex_);
    job->wanted = 0;
    std::erase(jobs_, job);
    done_.wait(lock, [&] { return job->running == 0; });
  }

  int size() const { return int(threads_.size()) + 1; }

 private:
  struct Job {
    const std::function<void()>* work;
    int wanted = 0, running = 0;
  };
  std::mutex mutex_;
  std::condition_variable ready_, done_;
  std::vector<std::shared_ptr<Job>> jobs_;
  std::vector<std::thread> threads_;

  Pool() {
    const char* text = std::getenv("TUTTI_VIRTUAL_CUDA_THREADS");
    int count = text ? std::atoi(text) : int(std::thread::hardware_concurrency());
    for (int i = 1; i < count; ++i) {
      threads_.emplace_back([this] { loop(); });
      threads_.back().detach();
    }
  }

  void loop() {
    std::unique_lock lock(mutex_);
    for (;;) {
      ready_.wait(lock, [&] { return !jobs_.empty(); });
      std::shared_ptr<Job> job = jobs_.front();
      ++job->running;
      if (--job->wanted <= 0) std::erase(jobs_, job);
      lock.unlock();
      (*job->work)();
      lock.lock();
      --job->running;
      done_.notify_all();
    }
  }
};

}  // namespace

void execute(Launch& launch) {
  const uint64_t blocks = uint64_t(launch.grid[0]) * launch.grid[1] * launch.grid[2];
  const uint64_t total = launch.cooperative ? 1 : blocks / (uint64_t(launch.cluster[0]) * launch.cluster[1] * launch.cluster[2]);
  std::atomic<uint64_t> next{0};
  std::mutex mutex;
  std::exception_ptr failure;
  const std::function<void()> work = [&] {
    try {
      uint64_t index = next.fetch_add(1);
      if (index >= total) return;
      ClusterRunner runner(launch);
      for (; index < total && !launch.stop.load(std::memory_order_relaxed); index = next.fetch_add(1)) runner.run(index);
    } catch (...) {
      launch.stop = true;
      std::lock_guard lock(mutex);
      if (!failure) failure = std::current_exception();
    }
  };
  Pool& pool = Pool::get();
  pool.run(int(std::min<uint64_t>(total - 1, uint64_t(pool.size() - 1))), work);
  if (failure) std::rethrow_exception(failure);
}

std::string placeOf(const Warp& w, const Op& op, int lane) {
  const SourceLine& source = w.kernel->sources[op.source];
  const uint32_t* size = w.block->cluster->launch->block;
  const uint32_t t = uint32_t(w.index) * kLanes + uint32_t(lane);
  const uint32_t thread[3] = {t % size[0], t / size[0] % size[1], t / size[0] / size[1]};
  return "kernel " + w.kernel->name + ", line " + std::to_string(source.line) + ": `" + source.text + "`, block " +
         triple(w.block->id) + " thread " + triple(thread);
}

void fault(const Warp& w, const Op& op, int lane, int code, const std::string& message) {
  throw Fault(code, message + "\n  at " + placeOf(w, op, lane));
}

}  // namespace vcuda
