// An open CPU device: memory, loaded kernels, recorded lists and the one queue that runs them in order.
//
// Submissions run one at a time, on the queue's thread or, where that is not worth a change of threads, on the caller's.
// Nothing here knows JavaScript. Handles are shared pointers: a list keeps its kernels and buffers, a submission
// keeps its list, so releasing a handle early is always safe.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>

#include "pool.h"

namespace tutti::cpu {

/** Counts the bytes of a device's buffers. */
struct Accounting {
  const uint64_t totalBytes;
  std::atomic<uint64_t> allocatedBytes{0};
};

/** Zero-filled memory aligned to 64 bytes. */
class Buffer {
 public:
  /** Throws tutti::Error E_OUT_OF_MEMORY. */
  Buffer(std::shared_ptr<Accounting> accounting, uint64_t bytes);
  ~Buffer();
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  unsigned char* data() const { return data_; }
  uint64_t bytes() const { return bytes_; }
  /** Gives the memory back before the last owner goes. Nothing may use it any more. */
  void release();

 private:
  std::shared_ptr<Accounting> accounting_;
  uint64_t bytes_;
  uint64_t mapped_ = 0;
  unsigned char* data_ = nullptr;
};

/** A loaded shared object. */
class Library {
 public:
  /** Throws tutti::Error E_KERNEL with the loader's words. */
  explicit Library(const std::string& path);
  ~Library();
  Library(const Library&) = delete;
  Library& operator=(const Library&) = delete;
  KernelFn function(const std::string& entry) const;

 private:
  std::string path_;
  void* handle_;
};

struct Kernel {
  std::shared_ptr<Library> library;
  KernelFn function = nullptr;
  /** By binding: whether the kernel may write there. */
  std::vector<bool> writes;
  uint64_t scalarBytes = 0;
  /** Of one thread. */
  uint64_t scratchBytes = 0;
};

struct Slice {
  std::shared_ptr<Buffer> buffer;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  unsigned char* data() const { return buffer->data() + offset; }
};

struct Dispatch {
  std::shared_ptr<Kernel> kernel;
  uint32_t grid[3];
  std::vector<Slice> bindings;
  /** Where the bindings are. */
  std::vector<void*> pointers;
  std::vector<uint32_t> scalars;
  Cost cost;
};
struct Copy {
  Slice from;
  Slice to;
  void* source = nullptr;
  void* target = nullptr;
};
struct Fill {
  Slice to;
  int byte = 0;
  void* target = nullptr;
};
using Command = std::variant<Dispatch, Copy, Fill>;

/** What the commands of a list do with one buffer. */
struct Usage {
  struct Place {
    /** In a command. */
    void** pointer;
    uint64_t offset;
  };
  std::vector<Place> places;
  bool written = false;
  /** Bytes from the start of the buffer that the commands touch at most. */
  uint64_t end = 0;
};

class CommandList {
 public:
  explicit CommandList(std::vector<Command> commands);
  CommandList(const CommandList&) = delete;
  CommandList& operator=(const CommandList&) = delete;

  std::vector<Command>& commands() { return commands_; }
  /** Null if no command uses the buffer. */
  const Usage* usage(const Buffer& buffer) const;

  /** Of whole submissions. */
  Cost cost;

 private:
  std::vector<Command> commands_;
  std::unordered_map<const Buffer*, Usage> usages_;
};

/**
 * Transfers between buffers and the host's memory. `passing`: the buffer need not hold the data afterwards, so that the
 * commands may work on the host's memory instead.
 */
struct HostWrite {
  Slice to;
  const unsigned char* data;
  bool passing = false;
};
struct HostRead {
  Slice from;
  unsigned char* into;
  bool passing = false;
};

struct Submission {
  std::shared_ptr<CommandList> list;
  std::vector<HostWrite> writes;
  std::vector<HostRead> reads;
  /** Becomes non-zero when nobody wants the result any more. */
  const std::atomic<int32_t>* aborted = nullptr;
  /** Filled with the time of each dispatch, if asked for. */
  std::shared_ptr<std::vector<double>> microseconds;
  /** Called once on the queue's thread, with the failure if there was one. Submissions that the queue runs have it. */
  std::function<void(std::exception_ptr)> done;
};

class Device {
 public:
  Device(unsigned threads, uint64_t memoryBytes);
  /** Finishes what is queued. */
  ~Device();

  std::shared_ptr<Buffer> allocate(uint64_t bytes);
  const Accounting& memory() const { return *accounting_; }
  void submit(std::shared_ptr<Submission> submission);
  /** Runs it here, after everything that was submitted before. Throws what went wrong. */
  void runHere(Submission& submission);
  /**
   * The same for work that is likely done sooner than the queue's thread wakes up; false, and nothing done, if it is
   * not such, or others come first.
   */
  bool runHereIfShort(Submission& submission);
  /** Runs `done` on the queue's thread after all work; nothing may be submitted afterwards. */
  void drain(std::function<void()> done);
  /** After `drain`: stops the threads and frees all buffers. */
  void shutdown();

 private:
  class Turn;

  void serve();
  void execute(Submission& submission);
  void dispatch(Dispatch& dispatch, Submission& submission);
  /** Ends the turn that the caller has taken by setting busy_. */
  void endTurn();

  const unsigned threads_;
  std::shared_ptr<Accounting> accounting_;
  std::vector<std::weak_ptr<Buffer>> buffers_;
  size_t sweepAt_ = 64;
  std::mutex mutex_;
  std::condition_variable ready_;
  std::condition_variable idle_;
  std::deque<std::shared_ptr<Submission>> queue_;
  /** Some thread executes a submission. */
  bool busy_ = false;
  std::function<void()> drained_;
  bool stop_ = false;
  std::unique_ptr<ThreadPool> pool_;
  std::thread thread_;
};

}  // namespace tutti::cpu
