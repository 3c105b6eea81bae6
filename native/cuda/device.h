// An open CUDA device: buffers, kernels, command lists and the queue that runs them.
//
// One stream runs everything in order. Two threads serve it so that nothing waits on JavaScript's thread: the submitter
// takes jobs in order, moves host data into pinned memory and fills the stream; the waiter waits for events in order,
// moves data out, frees what was released and settles promises. Host data passes through one ring of pinned memory,
// which comes free in the order it was taken.

#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "../common/async.h"
#include "api.h"

namespace tutti::cuda {

class Core;

inline Error closedError() { return Error("E_DEVICE_CLOSED", "the device is closed"); }

/** Something with handles of the driver. Destroyed by its last owner or when its device closes, whichever is first. */
class Resource {
 public:
  explicit Resource(std::shared_ptr<Core> core) : core_(std::move(core)) {}
  virtual ~Resource() = default;
  Resource(const Resource&) = delete;
  Resource& operator=(const Resource&) = delete;
  /** Called once, under the registry's lock and with the context current. */
  virtual void destroy() = 0;
  Core& core() const { return *core_; }

 protected:
  /** First call of every destructor. */
  void retire();

 private:
  std::shared_ptr<Core> core_;
};

/** Device memory. Released while in use by nobody but perhaps the device: it is freed once that is done with it. */
class Buffer final : public Resource {
 public:
  Buffer(std::shared_ptr<Core> core, uint64_t bytes);
  ~Buffer() override { retire(); }
  void destroy() override;

  const uint64_t bytes;
  /** At least 4, in whole words: kernels read packed types by the word. */
  const uint64_t size;
  CUdeviceptr pointer = 0;
};

struct KernelSource {
  std::string name;
  std::string entry;
  std::string text;
  unsigned workgroup[3] = {1, 1, 1};
  uint32_t bindings = 0;
  uint32_t scalarBytes = 0;
};

class Kernel final : public Resource {
 public:
  Kernel(std::shared_ptr<Core> core, const KernelSource& source);
  ~Kernel() override { retire(); }
  void destroy() override;

  const uint32_t bindings;
  const uint32_t scalarBytes;
  const unsigned workgroup[3];
  CUmodule module = nullptr;
  CUfunction function = nullptr;
};

struct Binding {
  std::shared_ptr<Buffer> buffer;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  CUdeviceptr pointer() const { return buffer->pointer + offset; }
};

struct ListCommand {
  enum class Kind { dispatch, copy, fill, barrier };
  Kind kind = Kind::barrier;
  std::shared_ptr<Kernel> kernel;
  uint32_t grid[3] = {};
  std::vector<Binding> bindings;  // dispatch: all; copy: from, to; fill: to
  std::vector<uint8_t> scalars;
  uint8_t byte = 0;
};

/** A recorded list: a CUDA graph, captured once and launched by each submission. */
class List final : public Resource {
 public:
  List(std::shared_ptr<Core> core, std::vector<ListCommand> commands);
  ~List() override { retire(); }
  void destroy() override;

  /** Enqueues the whole list. */
  void launch(CUstream stream) const;
  /** Same, with `events[2 i]` before and `events[2 i + 1]` after dispatch i. */
  void launchTimed(CUstream stream, const std::vector<CUevent>& events) const;
  size_t dispatches() const { return dispatches_; }

 private:
  void issue(const ListCommand& command, CUstream stream) const;

  std::vector<ListCommand> commands_;
  size_t dispatches_ = 0;
  bool empty_ = true;
  CUgraphExec graph_ = nullptr;
};

struct Transfer {
  std::shared_ptr<Buffer> buffer;
  uint64_t offset = 0;
  uint8_t* host = nullptr;
  uint64_t bytes = 0;
};

/** One `Queue.submit`. Host memory and the abort flag are kept alive by the Completion's result. */
struct Job {
  std::shared_ptr<List> list;
  std::vector<Transfer> writes;
  std::vector<Transfer> reads;
  bool profile = false;
  std::atomic<int32_t>* aborted = nullptr;
  /** Internal: new memory to clear. Not its buffer, which may go at once: memory is freed by a later job. */
  CUdeviceptr zero = 0;
  uint64_t zeroBytes = 0;
  /** Internal: gives something back that the device may still use. */
  std::function<void()> release;
  std::shared_ptr<std::vector<double>> microseconds;
  std::shared_ptr<Completion> done;
  std::exception_ptr error;

  bool isAborted() const { return aborted != nullptr && aborted->load(std::memory_order_relaxed) != 0; }
};

/** Pinned memory, handed out in order and given back in order. Positions count bytes from the beginning of time. */
class Ring {
 public:
  static constexpr uint64_t kBytes = 32u << 20;
  static constexpr uint64_t kLargestPiece = kBytes / 4;

  /** Where `bytes` (at most kLargestPiece) fit now, or null. */
  uint8_t* take(uint64_t bytes);
  uint64_t head() const { return head_; }
  /** Everything taken before `position` is free again. */
  void giveBack(uint64_t position) { tail_ = position; }

  uint8_t* memory = nullptr;

 private:
  uint64_t head_ = 0;
  uint64_t tail_ = 0;
};

struct HostCopy {
  uint8_t* to;
  const uint8_t* from;
  uint64_t bytes;
};

/** A part of the stream up to an event, and what to do when that has passed. */
struct Batch {
  std::shared_ptr<Job> job;
  CUevent event = nullptr;
  /** Around each dispatch, if the job is profiled. */
  std::vector<CUevent> timed;
  std::vector<HostCopy> copies;
  /** Pinned memory up to here is free afterwards. */
  uint64_t ringEnd = 0;
  bool staged = false;
  bool last = false;
  std::exception_ptr error;
};

class Core final : public std::enable_shared_from_this<Core> {
 public:
  Core(std::shared_ptr<const Api> api, DeviceFacts facts);
  ~Core();
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  /** Starts the threads; apart from the constructor because they need a shared owner. */
  void start();
  void enqueue(std::shared_ptr<Job> job);
  /** Device memory. Waits for memory about to be freed where there is no other. */
  CUdeviceptr allocate(uint64_t bytes);
  /** Calls `release` once the device has done what was submitted before. From any thread; never blocks the caller long. */
  void releaseLater(std::function<void()> release);
  /** Compiles on several threads. Throws Error E_KERNEL naming the kernel. Call off-thread. */
  std::vector<std::shared_ptr<Kernel>> loadKernels(const std::vector<KernelSource>& sources);
  /** Runs what is queued, frees everything, then settles `done` (which may be null). Later calls only settle. */
  void close(std::shared_ptr<Completion> done);
  /** close, and waits for its end. For finalizers. */
  void closeAndJoin();
  /** Forgets what is queued, and closes unless what is in flight takes long. At the end of the process only. */
  void abandon();
  /** Makes the device's context that of the calling thread. */
  void makeCurrent() const { api->check(api->cuCtxSetCurrent(context_), "using the device"); }

  /** Guards calls that work with the device off-thread: closing waits for them. Throws E_DEVICE_CLOSED. */
  class Use {
   public:
    explicit Use(Core& core);
    ~Use();
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    Core& core_;
  };

  void add(Resource* resource);
  void retire(Resource* resource);

  const std::shared_ptr<const Api> api;
  const DeviceFacts facts;
  std::atomic<uint64_t> allocatedBytes{0};

 private:
  void submitterLoop();
  void waiterLoop();
  void run(const std::shared_ptr<Job>& job);
  void fill(std::unique_ptr<Batch>& batch);
  void flush(std::unique_ptr<Batch>& batch, bool last);
  void push(std::unique_ptr<Batch> batch);
  void finish(Batch& batch);
  uint8_t* stage(std::unique_ptr<Batch>& batch, uint64_t bytes);
  CUevent takeEvent(bool timed);
  void giveBackEvent(CUevent event, bool timed);
  void noteLoss(const Error& error);
  void destroyAll();

  CUcontext context_ = nullptr;
  CUstream stream_ = nullptr;

  std::thread submitter_;
  std::thread waiter_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Job>> jobs_;
  std::deque<std::unique_ptr<Batch>> batches_;
  std::vector<CUevent> events_;
  std::vector<CUevent> timedEvents_;
  Ring ring_;
  size_t inFlight_ = 0;
  size_t releases_ = 0;
  bool closing_ = false;
  bool submitterDone_ = false;
  bool closed_ = false;
  size_t users_ = 0;
  std::vector<std::shared_ptr<Completion>> closers_;
  std::exception_ptr lost_;

  std::mutex registryMutex_;
  std::set<Resource*> registry_;
  bool destroyed_ = false;
};

}  // namespace tutti::cuda
