// An open GPU device, whatever API stands behind it: its memory, its kernels and the queue that runs its lists in
// order.
//
// Two threads serve a device so that nothing waits on JavaScript's thread. The submitter takes jobs in order, moves
// host data in and hands work to the driver in batches; the waiter waits for batches in order, moves data out, frees
// what was released and settles promises. Where device memory is mapped and cached (software drivers, integrated GPUs)
// host data is copied directly, which needs the device to be done with earlier jobs; elsewhere it passes through one
// ring of memory that both sides see, as commands of the queue, and jobs overlap freely.
//
// A driver derives from Device and fills in what is its own.

#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "async.h"
#include "resources.h"

namespace tutti::gpu {

inline Error closedError() { return Error("E_DEVICE_CLOSED", "the device is closed"); }

struct Transfer {
  std::shared_ptr<Buffer> buffer;
  uint64_t offset = 0;
  uint8_t* host = nullptr;
  uint64_t bytes = 0;
};

struct Batch;

/**
 * One `Queue.submit`, or work of the device's own. Host memory and abort flag live as long as the Completion's result.
 */
struct Job {
  std::shared_ptr<List> list;
  std::vector<Transfer> writes;
  std::vector<Transfer> reads;
  bool profile = false;
  std::atomic<int32_t>* aborted = nullptr;
  /** Internal: clears new memory. Does not keep the buffer, which may go at once: memory is released by a later job. */
  std::function<void(Batch&)> clear;
  /** Internal: gives something back that the device may still use. */
  std::function<void()> release;
  std::shared_ptr<std::vector<double>> microseconds;
  std::shared_ptr<Completion> done;
  std::exception_ptr error;

  bool isAborted() const { return aborted != nullptr && aborted->load(std::memory_order_relaxed) != 0; }
};

struct HostCopy {
  uint8_t* to;
  const uint8_t* from;
  uint64_t bytes;
};

/**
 * A part of a job that is handed to the driver at once, and what to do when it has ended. Drivers add their handles.
 */
struct Batch {
  virtual ~Batch() = default;

  std::shared_ptr<Job> job;
  std::vector<HostCopy> copies;
  /** The ring up to here is free afterwards. */
  uint64_t ringEnd = 0;
  bool staged = false;
  /** The driver has times of dispatches for it. */
  bool timed = false;
  bool last = false;
  std::exception_ptr error;
};

/**
 * Memory that host and device see, handed out in order and given back in order. Positions count from the beginning of
 * time.
 */
class Ring {
 public:
  static constexpr uint64_t kBytes = 32u << 20;
  static constexpr uint64_t kLargestPiece = kBytes / 4;

  /**
   * Offset of `bytes` (at most kLargestPiece) that are free now, equal to `phase` modulo 16; nothing if there are
   * none.
   */
  std::optional<uint64_t> take(uint64_t bytes, uint64_t phase);
  uint64_t head() const { return head_; }
  /** Everything taken before `position` is free again. */
  void giveBack(uint64_t position) { tail_ = position; }

  uint8_t* memory = nullptr;

 private:
  uint64_t head_ = 0;
  uint64_t tail_ = 0;
};

class Device : public std::enable_shared_from_this<Device> {
 public:
  virtual ~Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  /** Starts the threads; apart from the constructor because they need a shared owner. */
  void start();
  /** Zero-filled. Throws Error E_OUT_OF_MEMORY, after waiting for memory that is about to be freed. */
  std::shared_ptr<Buffer> allocate(uint64_t bytes);
  /** Compiles on several threads. Throws Error E_KERNEL naming the kernel. Call off-thread. */
  std::vector<std::shared_ptr<Kernel>> loadKernels(const std::vector<KernelSource>& sources);
  /** Call off-thread. */
  std::shared_ptr<List> record(std::vector<Command> commands);
  void enqueue(std::shared_ptr<Job> job);
  /** Whether dispatches can be timed. */
  virtual bool timesDispatches() const { return true; }
  uint64_t allocatedBytes() const { return allocatedBytes_; }

  /** Runs what is queued, frees everything, then settles `done` (which may be null). Later calls only settle. */
  void close(std::shared_ptr<Completion> done);
  /** close, and waits for its end. For finalizers. */
  void closeAndJoin();
  /** Forgets what is queued, and closes unless what is in flight takes too long. At the end of the process only. */
  void abandon();

  /**
   * Calls `release` once the device has done what was submitted before. From any thread; never blocks the caller long.
   */
  void releaseLater(std::function<void()> release);
  void retire(Resource* resource);

  /** Guards calls that work with the device off-thread: closing waits for them. Throws E_DEVICE_CLOSED. */
  class Use {
   public:
    explicit Use(Device& device);
    ~Use();
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    Device& device_;
  };

 protected:
  /** `direct`: all buffers are mapped, and reading them is fast. */
  explicit Device(bool direct) : direct_(direct) {}
  /** To be called by the destructor of the driver's class: does nothing if the device has closed. */
  void shutDown();

  /** A resource of the driver's, registered so that closing the device destroys it. */
  template <class T, class... Arguments>
  std::shared_ptr<T> make(Arguments&&... arguments) {
    auto resource = std::make_shared<T>(std::static_pointer_cast<typename T::Owner>(shared_from_this()),
                                        std::forward<Arguments>(arguments)...);
    add(*resource);
    return resource;
  }

  // What a driver fills in. All but `enter` and `leave` are called between these two.

  /** Around work on a thread: what the API wants done on each. */
  virtual void* enter() noexcept { return nullptr; }
  virtual void leave(void* /*entered*/) noexcept {}

  /** When it is destroyed, its memory is to be released by releaseLater. */
  virtual std::shared_ptr<Buffer> newBuffer(uint64_t bytes) = 0;
  /** Fills the buffer with zeros on the device, on the submitter's thread. Buffers of a direct device are not asked. */
  virtual std::function<void(Batch&)> clearing(const Buffer& buffer) = 0;
  /** Throws Error E_DEVICE in the compiler's words where it refuses the source. */
  virtual std::shared_ptr<Kernel> newKernel(const KernelSource& source) = 0;
  virtual std::shared_ptr<List> newList(std::vector<Command> commands) = 0;
  /** Threads run; jobs may be enqueued. */
  virtual void started() {}
  /** After some kernels were loaded: time to write caches. */
  virtual void kernelsLoaded() {}

  // On the submitter's thread: one batch at a time is filled, then submitted.
  virtual std::unique_ptr<Batch> newBatch() = 0;
  /** The ring's memory, at its first use: `bytes` that host and device see. Freed by `destroyAll`. */
  virtual uint8_t* newRing(uint64_t bytes) = 0;
  /** From the ring at `from` into the buffer; ordered before what follows. */
  virtual void upload(Batch& batch, uint64_t from, Buffer& to, uint64_t offset, uint64_t bytes) = 0;
  /** Sets batch.timed if `profile` and times will be there. */
  virtual void launch(Batch& batch, List& list, bool profile) = 0;
  /** From the buffer into the ring at `to`; ordered after what came before. */
  virtual void download(Batch& batch, Buffer& from, uint64_t offset, uint64_t to, uint64_t bytes) = 0;
  virtual void submit(Batch& batch) = 0;

  // On the waiter's thread.
  /** Until the device has done with the batch, which need not have come to `submit`. Throws what went wrong there. */
  virtual void wait(Batch& batch) = 0;
  /** Microseconds of each dispatch of a timed batch. */
  virtual void readTimes(Batch& batch, std::vector<double>& microseconds) = 0;
  /** Takes back what the batch held. */
  virtual void recycle(Batch& batch) noexcept = 0;

  /** Waits until the device has nothing to do. */
  virtual void waitForDevice() noexcept = 0;
  /** The end: all resources are gone. */
  virtual void destroyAll() noexcept = 0;
  /** How long an exiting process waits for work in flight. */
  virtual std::chrono::milliseconds exitPatience() const { return std::chrono::milliseconds(1000); }

 private:
  class Scope;

  void add(Resource& resource);
  void submitterLoop();
  void waiterLoop();
  void run(const std::shared_ptr<Job>& job);
  std::unique_ptr<Batch> begin(const std::shared_ptr<Job>& job);
  void fill(std::unique_ptr<Batch>& batch);
  void fillDirect(Batch& batch);
  void fillStaged(std::unique_ptr<Batch>& batch);
  uint64_t stage(std::unique_ptr<Batch>& batch, uint64_t bytes, uint64_t phase);
  void flush(std::unique_ptr<Batch>& batch, bool last);
  void push(std::unique_ptr<Batch> batch);
  void waitIdle();
  void finish(Batch& batch);
  void noteLoss(const std::exception_ptr& error);
  void end();

  const bool direct_;
  std::atomic<uint64_t> allocatedBytes_{0};

  std::thread submitter_;
  std::thread waiter_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Job>> jobs_;
  std::deque<std::unique_ptr<Batch>> batches_;
  Ring ring_;
  size_t running_ = 0;  // jobs that the submitter has taken and not yet pushed
  size_t inFlight_ = 0;
  bool hostReadPending_ = false;
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

/** Between `enter` and `leave`. */
class Device::Scope {
 public:
  explicit Scope(Device& device) : device_(device), entered_(device.enter()) {}
  ~Scope() { device_.leave(entered_); }
  Scope(const Scope&) = delete;
  Scope& operator=(const Scope&) = delete;

 private:
  Device& device_;
  void* const entered_;
};

}  // namespace tutti::gpu
