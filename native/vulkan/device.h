// An open Vulkan device: buffers, kernels, command lists and the queue that runs them.
//
// Two threads serve a device so that nothing waits on JavaScript's thread. The submitter takes jobs in order, moves
// host data in and hands command buffers to the queue; the waiter waits for fences in order, moves data out and settles
// promises. Where memory is mapped and cached (software drivers, integrated GPUs) host data is copied directly, which
// needs the device to be done with earlier jobs; elsewhere it goes through staging chunks as commands of the queue and
// jobs overlap freely.

#pragma once

#ifndef TUTTI_NO_VULKAN_HEADERS

#include <atomic>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "../common/async.h"
#include "api.h"

namespace tutti::vulkan {

class Core;

inline Error closedError() { return Error("E_DEVICE_CLOSED", "the device is closed"); }

/** Something with Vulkan handles. Destroyed by its last owner or when its device closes, whichever is first. */
class Resource {
 public:
  explicit Resource(std::shared_ptr<Core> core);
  virtual ~Resource() = default;
  Resource(const Resource&) = delete;
  Resource& operator=(const Resource&) = delete;
  /** Called once, under the registry's lock. */
  virtual void destroy() = 0;
  Core& core() const { return *core_; }

 protected:
  /** First call of every destructor. */
  void retire();

 private:
  std::shared_ptr<Core> core_;
};

class Buffer final : public Resource {
 public:
  Buffer(std::shared_ptr<Core> core, uint64_t bytes);
  ~Buffer() override { retire(); }
  void destroy() override;

  const uint64_t bytes;
  /** `bytes` rounded up to whole words: kernels read and write packed types by the word. */
  const uint64_t size;
  VkBuffer handle = VK_NULL_HANDLE;
  VkDeviceMemory memory = VK_NULL_HANDLE;
  uint8_t* mapped = nullptr;
};

struct KernelSource {
  std::string name;
  std::string entry;
  std::vector<uint32_t> words;
  uint32_t bindings = 0;
  uint32_t scalarBytes = 0;
  uint32_t subgroupSize = 0;
};

class Kernel final : public Resource {
 public:
  Kernel(std::shared_ptr<Core> core, const KernelSource& source);
  ~Kernel() override { retire(); }
  void destroy() override;

  const uint32_t bindings;
  const uint32_t scalarBytes;
  VkDescriptorSetLayout setLayout = VK_NULL_HANDLE;
  VkPipelineLayout layout = VK_NULL_HANDLE;
  VkPipeline pipeline = VK_NULL_HANDLE;
};

struct Binding {
  std::shared_ptr<Buffer> buffer;
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

struct ListCommand {
  enum class Kind { dispatch, copy, fill, barrier };
  Kind kind = Kind::barrier;
  std::shared_ptr<Kernel> kernel;
  uint32_t grid[3] = {};
  std::vector<Binding> bindings;  // dispatch: all; copy: from, to; fill: to
  std::vector<uint8_t> scalars;
  uint8_t byte = 0;
  VkDescriptorSet set = VK_NULL_HANDLE;
};

/** A recorded list. Replayable; a second, instrumented recording is made at the first profiled submission. */
class List final : public Resource {
 public:
  List(std::shared_ptr<Core> core, std::vector<ListCommand> commands);
  ~List() override { retire(); }
  void destroy() override;

  VkCommandBuffer commands(bool profile);
  size_t dispatches() const { return dispatches_; }
  VkQueryPool queries() const { return queries_; }

 private:
  VkCommandBuffer record(bool profile);
  void allocateSets();

  std::vector<ListCommand> commands_;
  size_t dispatches_ = 0;
  VkCommandPool pool_ = VK_NULL_HANDLE;
  VkDescriptorPool descriptors_ = VK_NULL_HANDLE;
  VkQueryPool queries_ = VK_NULL_HANDLE;
  VkCommandBuffer plain_ = VK_NULL_HANDLE;
  VkCommandBuffer instrumented_ = VK_NULL_HANDLE;
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
  std::shared_ptr<Buffer> zero;  // internal: clear a new buffer
  std::shared_ptr<std::vector<double>> microseconds;
  std::shared_ptr<Completion> done;
  std::exception_ptr error;

  bool isAborted() const { return aborted != nullptr && aborted->load(std::memory_order_relaxed) != 0; }
};

class Core final : public std::enable_shared_from_this<Core> {
 public:
  Core(std::shared_ptr<Instance> instance, DeviceFacts facts, std::string cacheFile, bool forceStaging);
  ~Core();
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;

  /** Starts the threads; apart from the constructor because they need a shared owner. */
  void start();
  void enqueue(std::shared_ptr<Job> job);
  /** Pipelines of `sources`, built on several threads. Throws Error E_KERNEL naming the kernel. Call off-thread. */
  std::vector<std::shared_ptr<Kernel>> loadKernels(const std::vector<KernelSource>& sources);
  /** Runs what is queued, frees everything, then settles `done` (which may be null). Later calls only settle. */
  void close(std::shared_ptr<Completion> done);
  /** close, and waits for its end. For finalizers. */
  void closeAndJoin();
  /** Forgets what is queued, then closeAndJoin. For the end of the process, after which drivers tear themselves down. */
  void abandon();

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

  struct MemoryBlock {
    VkDeviceMemory memory = VK_NULL_HANDLE;
    uint8_t* mapped = nullptr;
  };
  /** Memory for `buffer`, bound; host-visible memory is mapped. */
  MemoryBlock allocateMemory(VkBuffer buffer, bool staging);

  const std::shared_ptr<Instance> instance;
  const DeviceFacts facts;
  DeviceFunctions vk;
  VkDevice device = VK_NULL_HANDLE;
  VkPipelineCache pipelineCache = VK_NULL_HANDLE;
  /** 1 KiB where word i holds the byte i four times: the source for fills that are not whole words. */
  std::shared_ptr<Buffer> patterns;
  std::atomic<uint64_t> allocatedBytes{0};
  bool direct() const { return direct_; }

 private:
  struct Chunk;
  struct Batch;
  struct HostCopy;

  void submitterLoop();
  void waiterLoop();
  void run(const std::shared_ptr<Job>& job);
  void runDirect(Batch& batch);
  void runStaged(Batch& batch);
  void flush(std::unique_ptr<Batch>& batch, bool last);
  void finish(Batch& batch);
  void waitIdle();
  void push(std::unique_ptr<Batch> batch);
  VkCommandBuffer beginTransfer(Batch& batch);
  void endTransfer(VkCommandBuffer commands);
  std::shared_ptr<Chunk> takeChunk();
  void destroyAll();
  void loadCache();
  void saveCache();
  uint32_t memoryType(uint32_t allowed, bool staging) const;

  VkQueue queue_ = VK_NULL_HANDLE;
  VkCommandPool transferPool_ = VK_NULL_HANDLE;
  VkPhysicalDeviceMemoryProperties memory_{};
  bool direct_ = false;
  std::string cacheFile_;
  size_t savedCacheBytes_ = 0;
  std::mutex cacheMutex_;

  std::thread submitter_;
  std::thread waiter_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<std::shared_ptr<Job>> jobs_;
  std::deque<std::unique_ptr<Batch>> batches_;
  size_t inFlight_ = 0;
  bool hostReadPending_ = false;
  bool closing_ = false;
  bool submitterDone_ = false;
  bool closed_ = false;
  size_t users_ = 0;
  std::vector<std::shared_ptr<Completion>> closers_;
  std::vector<VkFence> fences_;
  std::vector<VkCommandBuffer> transfers_;
  std::vector<std::shared_ptr<Chunk>> chunks_;
  size_t chunkCount_ = 0;
  std::exception_ptr lost_;

  std::mutex registryMutex_;
  std::set<Resource*> registry_;
  bool destroyed_ = false;
};

}  // namespace tutti::vulkan

#endif
