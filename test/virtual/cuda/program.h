// The executable form of a kernel: a flat list of decoded operations over registers that hold 32 lanes each, and the
// machine state (warp, block, cluster) on which they work.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "ptx.h"

namespace vcuda {

constexpr int kLanes = 32;
constexpr uint32_t kAll = ~0u;
constexpr uint32_t kNone = ~0u;  // of register offsets and program counters

struct Warp;
struct Block;
struct Cluster;
struct Op;
struct Kernel;
struct MemoryMap;

/** Executes an operation for the lanes in `mask` (never empty). */
using Handler = void (*)(Warp&, const Op&, uint32_t mask);

enum class Flow : uint8_t {
  Next,        // the handler, then the next operation
  Branch,      // to target; lanes that do not branch go on
  Indexed,     // brx.idx: per-lane target
  Exit,        // the lanes end
  Warp,        // waits until the lanes of its member mask have come here; then the handler for all of them
  Barrier,     // CTA barrier
  Cluster,     // barrier.cluster
  Poll,        // the handler, then gives way to others if it failed (op.retry)
};

/** What an operation needs beyond a few registers; owned by the kernel. */
struct Extra {
  std::vector<uint32_t> registers;  // frame offsets: fragments, vectors
  std::vector<int64_t> values;      // handler-specific
};

struct Op {
  Handler run = nullptr;
  uint32_t guard = kNone;  // frame offset of the predicate
  bool guardNegated = false;
  Flow flow = Flow::Next;
  uint32_t r[6] = {kNone, kNone, kNone, kNone, kNone, kNone};  // frame offsets: destination first
  int64_t imm = 0;
  int64_t imm2 = 0;
  const Extra* extra = nullptr;
  uint32_t target = kNone;      // Branch
  uint32_t reconverge = kNone;  // where the lanes of a divergent branch meet again
  uint32_t source = 0;          // index into Kernel::sources
};

struct SourceLine {
  int line;
  std::string text;
};

/** A special register that is the same for all lanes or fixed per lane, put into the frame when a block starts. */
enum class Special : uint8_t {
  TidX, TidY, TidZ, NtidX, NtidY, NtidZ, CtaidX, CtaidY, CtaidZ, NctaidX, NctaidY, NctaidZ,
  LaneId, WarpId, NwarpId, SmId, NsmId, GridId,
  LaneMaskEq, LaneMaskLe, LaneMaskLt, LaneMaskGe, LaneMaskGt,
  TotalSmemSize, DynamicSmemSize, AggrSmemSize,
  ClusterIdX, ClusterIdY, ClusterIdZ, NclusterIdX, NclusterIdY, NclusterIdZ,
  ClusterCtaIdX, ClusterCtaIdY, ClusterCtaIdZ, ClusterNctaIdX, ClusterNctaIdY, ClusterNctaIdZ,
  ClusterCtaRank, ClusterNctaRank, IsExplicitCluster,
  Clock, ClockHi, Clock64, GlobalTimer, GlobalTimerLo, GlobalTimerHi,  // read when executed
};

struct Kernel {
  std::string name;
  std::shared_ptr<const Module> module;
  std::vector<Op> code;
  std::vector<SourceLine> sources;
  std::deque<Extra> extras;
  uint32_t frameBytes = 0;
  struct Constant {
    uint32_t at;
    uint32_t bytes;  // per lane; 4 for predicates with isPredicate
    uint64_t value;
    bool predicate;
  };
  std::vector<Constant> constants;  // the same in every lane, put into the frame once
  std::vector<std::pair<Special, uint32_t>> specials;
  struct Parameter {
    uint32_t at, bytes, align;
  };
  std::vector<Parameter> parameters;
  uint32_t parameterBytes = 0;
  uint32_t staticShared = 0;
  uint32_t dynamicSharedAlign = 16;
  uint32_t localBytes = 0;  // per lane, includes .param variables of calls
  uint32_t maxThreads = 1024;
  uint32_t requiredThreads[3] = {0, 0, 0};
  uint32_t requiredCluster[3] = {0, 0, 0};
  int registersPerThread = 0;  // an estimate for cuFuncGetAttribute
  bool usesClusters = false;
};

/** Addresses of generic pointers to shared and local memory: beyond what a host pointer can be. */
constexpr uint64_t kSharedWindow = uint64_t(0xA) << 44;
constexpr uint64_t kLocalWindow = uint64_t(0xB) << 44;
constexpr uint64_t kParamWindow = uint64_t(0xC) << 44;
constexpr uint64_t kWindowBytes = uint64_t(1) << 32;
/** shared::cluster addresses: the rank in the cluster, plus one, above the offset; rank+1 = 0 is the own block. */
constexpr int kRankShift = 24;

/** Device memory is mapped at host address + this, so that a host dereference of a device pointer fails. */
constexpr uint64_t kDeviceBias = uint64_t(1) << 48;
constexpr uint64_t kHostMask = (uint64_t(1) << 48) - 1;

/** A fault of the executing kernel, with the CUresult that the context will be stuck with. */
struct Fault : std::runtime_error {
  int code;
  Fault(int result, const std::string& message) : std::runtime_error(message), code(result) {}
};

/** Some lanes of a warp that are at one place of the program. Splits form a tree: a parent waits for its children. */
struct Split {
  enum class State : uint8_t { Free, Runnable, Reconverging, WarpWait, BarrierWait, ClusterWait };
  State state = State::Free;
  uint32_t pc = 0;
  uint32_t mask = 0;       // lanes
  uint32_t rpc = kNone;    // where these lanes join the parent
  int parent = -1;
  uint32_t arrived = 0;    // Reconverging: lanes that have come back
  uint32_t waiting = 0;    // WarpWait, BarrierWait: the lanes that execute the waiting operation
  uint32_t barrier = 0;    // BarrierWait: which
};

/** A cp.async that has been issued and not waited for: what is to be written, per lane. */
struct PendingCopy {
  uint32_t mask;
  uint32_t bytes;
  std::array<uint32_t, kLanes> group;
  std::array<uint64_t, kLanes> to;
  std::array<std::array<uint8_t, 16>, kLanes> data;
};

/** A bulk copy from shared to global memory, by bulk group of the issuing lane. */
struct PendingBulk {
  int lane;
  uint32_t group;
  std::function<void(bool readOnly)> complete;
};

struct Warp {
  uint8_t* frame = nullptr;
  Block* block = nullptr;
  const Kernel* kernel = nullptr;
  int index = 0;
  uint32_t live = 0;     // lanes that have not exited
  uint32_t started = 0;  // lanes that exist
  std::vector<Split> splits;
  int current = -1;
  uint8_t* local = nullptr;
  uint64_t localStride = 0;
  int budget = 0;       // backward branches until others get their turn
  bool yield = false;   // a poll failed: nothing to do here until others have moved
  // cp.async
  std::vector<PendingCopy> copies;
  std::array<uint32_t, kLanes> copyGroup{};
  // cp.async.bulk groups
  std::vector<PendingBulk> bulk;
  std::array<uint32_t, kLanes> bulkGroup{};
  // barrier.cluster: lanes that arrived and have not waited yet, and the phase they arrived in
  uint32_t clusterArrived = 0;
  uint32_t clusterPhase = 0;
  // wgmma
  struct Matmul {
    uint32_t group;
    std::function<void()> run;
  };
  std::vector<Matmul> matmuls;
  uint32_t matmulGroup = 0;
  bool matmulFenced = false;
  std::vector<uint32_t> matmulBusy;  // registers that an unfinished wgmma writes
  // Global ranges last accessed, by operation: the allocation table is asked only on a miss.
  struct Range {
    uint64_t from = 1, to = 0;
  };
  std::array<Range, 64> ranges;

  template <class T>
  T* reg(uint32_t offset) const {
    return reinterpret_cast<T*>(frame + offset);
  }
  uint32_t& pred(uint32_t offset) const { return *reinterpret_cast<uint32_t*>(frame + offset); }
  int newSplit();
};

/** One of the 16 named barriers of a block. */
struct NamedBarrier {
  std::vector<uint32_t> arrived;  // per warp
  uint32_t expected = 0;          // threads; 0: all
  bool active = false;
  uint32_t count = 0;             // .red
  uint32_t all = 1, any = 0;
  int line = 0;
};

/** The state of shared bytes, one mark each. */
enum SharedMark : uint8_t { kUnset = 0, kSet = 1, kInFlight = 2, kBarrierObject = 4 };

struct Block {
  Cluster* cluster = nullptr;
  uint32_t id[3] = {0, 0, 0};
  uint32_t rank = 0;  // in the cluster
  uint32_t threads = 0;
  std::vector<Warp> warps;
  std::vector<uint8_t> shared;
  std::vector<uint8_t> marks;
  std::vector<uint8_t> local;
  std::vector<uint8_t> frames;
  std::array<NamedBarrier, 16> barriers;
  uint32_t liveWarps = 0;
  // wgmma: warps of a warpgroup take part one by one
  std::map<uint64_t, std::shared_ptr<void>> groupState;
};

struct Launch;

/** Blocks that run together on one host thread: a cluster, or the whole grid of a cooperative launch. */
struct Cluster {
  const Launch* launch = nullptr;
  std::vector<std::unique_ptr<Block>> blocks;
  uint32_t id[3] = {0, 0, 0};
  uint32_t phase = 0;  // of barrier.cluster
  std::vector<std::function<void()>> asynchronous;  // bulk copies that have not landed yet
};

/** A kernel launch: what the driver hands to the machine. */
struct Launch {
  const Kernel* kernel = nullptr;
  uint32_t grid[3] = {1, 1, 1};
  uint32_t block[3] = {1, 1, 1};
  uint32_t cluster[3] = {1, 1, 1};
  bool cooperative = false;
  uint32_t dynamicShared = 0;
  std::vector<uint8_t> parameters;
  MemoryMap* memory = nullptr;
  uint64_t gridId = 0;
  std::atomic<bool> stop{false};
};

/** Runs the whole grid on the host's threads. Throws Fault. */
void execute(Launch& launch);

/** "kernel K, line N: `text`, block (x,y,z) thread (x,y,z)": where a lane is. */
std::string placeOf(const Warp& warp, const Op& op, int lane);
[[noreturn]] void fault(const Warp& warp, const Op& op, int lane, int code, const std::string& message);

// CUresult values that faults use
constexpr int kIllegalAddress = 700, kLaunchTimeout = 702, kAssert = 710, kIllegalInstruction = 715,
              kMisalignedAddress = 716, kInvalidAddressSpace = 717, kInvalidPc = 718, kLaunchFailed = 719;

}  // namespace vcuda
