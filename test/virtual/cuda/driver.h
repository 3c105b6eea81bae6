// The state behind the driver API: one device, its primary context, modules, streams, events and graphs.
// Handles are pointers to these objects; each API call looks them up before use, so that a stale handle is an error.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "lower.h"
#include "memory.h"
#include "program.h"

#define API extern "C" __attribute__((visibility("default")))

namespace vcuda {

/** The CUresult values that this device gives. */
enum Result : int {
  kSuccess = 0, kInvalidValue = 1, kOutOfMemory = 2, kNotInitialized = 3, kDeinitialized = 4, kNoDevice = 100, kInvalidDevice = 101,
  kInvalidImage = 200, kInvalidContext = 201, kNoBinaryForGpu = 209, kInvalidPtx = 218, kUnsupportedPtxVersion = 222,
  kInvalidSource = 300, kFileNotFound = 301, kOperatingSystem = 304, kInvalidHandle = 400, kIllegalState = 401, kNotFound = 500,
  kNotReady = 600, kLaunchOutOfResources = 701, kPrimaryContextActive = 708, kContextDestroyed = 709, kNotPermitted = 800,
  kNotSupported = 801, kInvalidClusterSize = 912, kCaptureUnsupported = 900, kCaptureInvalidated = 901, kCaptureMerge = 902,
  kCaptureUnmatched = 903, kCaptureUnjoined = 904, kCaptureIsolation = 905, kCaptureImplicit = 906, kCapturedEvent = 907,
  kGraphUpdateFailure = 910,
};

/** Something that will be done: signalled once. */
class Completion {
 public:
  void signal();
  void wait();
  bool done() const;

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool done_ = false;
};
using Pending = std::shared_ptr<Completion>;

struct LoadedModule;

struct LoadedFunction {
  LoadedModule* module;
  Kernel kernel;
  uint32_t mostDynamicShared = 49152;
  int carveout = -1;
  bool nonPortableCluster = false;
};

struct LoadedModule {
  std::shared_ptr<const Module> parsed;
  Symbols symbols;
  std::unordered_map<std::string, uint64_t> sizes;
  std::unordered_map<std::string, std::unique_ptr<LoadedFunction>> functions;
  std::vector<uint64_t> allocations;
};

/** One operation on a stream or in a graph. */
struct Work {
  enum class Kind : uint8_t { Empty, Kernel, Copy, Fill, Host } kind = Kind::Empty;
  // Kernel
  LoadedFunction* function = nullptr;
  uint32_t grid[3] = {1, 1, 1}, block[3] = {1, 1, 1}, cluster[3] = {1, 1, 1};
  bool cooperative = false;
  uint32_t dynamicShared = 0;
  std::vector<uint8_t> parameters;
  // Copy and Fill: host pointers are resolved when the work runs
  uint64_t to = 0, from = 0, bytes = 0;
  bool toHost = false, fromHost = false;
  std::shared_ptr<std::vector<uint8_t>> staged;  // a copy from pageable memory
  uint32_t value = 0, elementBytes = 1;
  // Host
  void (*call)(void*) = nullptr;
  void* user = nullptr;
};

struct GraphNode {
  Work work;
  std::vector<GraphNode*> after;
};

struct Graph {
  std::vector<std::unique_ptr<GraphNode>> nodes;
};

struct GraphExec {
  std::vector<std::unique_ptr<GraphNode>> nodes;
  std::unordered_map<const GraphNode*, GraphNode*> byOriginal;
  std::mutex mutex;
  uint64_t launches = 0;
};

struct Capture {
  Graph* graph = nullptr;
  struct Stream* origin = nullptr;
  bool invalid = false;
  std::vector<struct Stream*> members;
};

struct Stream : std::enable_shared_from_this<Stream> {
  bool nonBlocking = false;
  bool legacy = false;
  Pending last;  // of the newest work
  std::shared_ptr<Capture> capture;
  std::vector<GraphNode*> captureAfter;

  void push(std::function<void()> run, std::vector<Pending> waits, Pending done);
  void close();

 private:
  struct Task {
    std::function<void()> run;
    std::vector<Pending> waits;
    Pending done;
  };
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  bool started_ = false, closing_ = false;
  void loop();
};

struct Event {
  struct Record {
    Pending completion;
    double seconds = 0;
  };
  std::shared_ptr<Record> record;
  bool timing = true;
  std::shared_ptr<Capture> capture;
  std::vector<GraphNode*> captureAfter;
};

struct Context {
  MemoryMap memory;
  std::mutex mutex;  // of everything below
  std::unordered_map<const void*, std::unique_ptr<LoadedModule>> modules;
  std::set<const LoadedFunction*> functions;
  std::unordered_map<const void*, std::shared_ptr<Stream>> streams;
  std::shared_ptr<Stream> legacy;
  std::unordered_map<const void*, std::unique_ptr<Event>> events;
  std::unordered_map<const void*, std::unique_ptr<Graph>> graphs;
  std::set<const GraphNode*> nodes;
  std::unordered_map<const void*, std::shared_ptr<GraphExec>> execs;
  std::atomic<int> stuck{0};  // the error that every call returns once a kernel has failed
  std::atomic<uint64_t> gridIds{1};

  explicit Context(uint64_t bytes) : memory(bytes) {}
};

struct Device {
  std::atomic<bool> initialised{false};
  int sm = 90;
  uint64_t memoryBytes = uint64_t(8) << 30;
  std::mutex mutex;
  int retained = 0;
  std::unique_ptr<Context> primary;
  std::mutex faultMutex;
  std::string fault;  // the newest fault in words
};

Device& device();
/** The current context of this thread, or null. */
Context*& current();
void noteFault(Context& context, int code, const std::string& message);

/** What every call does first: initialised, a context, no earlier failure. Sets `context`. */
int enter(Context*& context);

// Streams
std::shared_ptr<Stream> findStream(Context&, const void* handle);
/** Puts work at the end of a stream, or into the graph that the stream is captured to. */
int submit(Context&, const std::shared_ptr<Stream>&, Work);
void perform(Context&, Work&);
int capturing(const Stream&);
/** Checks a launch as cuLaunchKernel does and packs its parameters. */
int prepareKernel(Context&, LoadedFunction* function, const uint32_t* grid, const uint32_t* block, uint32_t shared, void** parameters,
                  void** extra, Work& work);
LoadedFunction* findFunction(Context&, const void* handle);
void runGraph(Context&, GraphExec&);
void destroyContext(std::unique_ptr<Context>);
void unloadModule(Context&, LoadedModule&);

}  // namespace vcuda
