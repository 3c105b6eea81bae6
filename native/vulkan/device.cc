// The device's life, memory and queue: see device.h.

#ifndef TUTTI_NO_VULKAN_HEADERS

#include "device.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <fstream>

namespace tutti::vulkan {

namespace {

constexpr uint64_t kChunkBytes = 16ull << 20;
constexpr size_t kMaxChunks = 8;
constexpr size_t kMaxBatchesInFlight = 64;
constexpr uint64_t kInlineZeroBytes = 64 << 10;

Error closedError() { return Error("E_DEVICE_CLOSED", "the device is closed"); }

/** Header of a pipeline cache file. What follows is the driver's own, which some drivers do not check enough. */
struct CacheHeader {
  char magic[8];
  uint32_t vendorId, deviceId, driverVersion, apiVersion;
  uint8_t cacheUuid[VK_UUID_SIZE];
  uint64_t bytes, hash;
};
constexpr char kCacheMagic[8] = {'T', 'U', 'T', 'T', 'I', 'V', 'P', '1'};

uint64_t fnv1a(const uint8_t* data, size_t bytes) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (size_t i = 0; i < bytes; ++i) hash = (hash ^ data[i]) * 0x100000001b3ull;
  return hash;
}

CacheHeader cacheHeader(const DeviceFacts& facts, const std::vector<uint8_t>& data) {
  CacheHeader header{};
  std::memcpy(header.magic, kCacheMagic, sizeof kCacheMagic);
  header.vendorId = facts.vendorId;
  header.deviceId = facts.deviceId;
  header.driverVersion = facts.driverVersion;
  header.apiVersion = facts.apiVersion;
  std::memcpy(header.cacheUuid, facts.cacheUuid, VK_UUID_SIZE);
  header.bytes = data.size();
  header.hash = fnv1a(data.data(), data.size());
  return header;
}

}  // namespace

/** A host-visible buffer that data passes through on its way to or from the device. */
struct Core::Chunk {
  VkBuffer buffer = VK_NULL_HANDLE;
  MemoryBlock block;
  uint64_t used = 0;
};

struct Core::HostCopy {
  uint8_t* to;
  const uint8_t* from;
  uint64_t bytes;
};

/** One queue submission and what to do when it is done. */
struct Core::Batch {
  std::shared_ptr<Job> job;
  std::vector<VkCommandBuffer> commands;
  std::vector<VkCommandBuffer> transfers;
  std::vector<std::shared_ptr<Chunk>> chunks;
  std::vector<HostCopy> copies;
  VkFence fence = VK_NULL_HANDLE;
  bool submitted = false;
  bool profile = false;
  bool last = false;
  std::exception_ptr error;
};

Core::Core(std::shared_ptr<Instance> owner, DeviceFacts described, std::string cacheFile, bool forceStaging)
    : instance(std::move(owner)), facts(std::move(described)), cacheFile_(std::move(cacheFile)) {
  device = createDevice(*instance, facts, vk);
  vk.vkGetDeviceQueue(device, facts.queueFamily, 0, &queue_);
  instance->vkGetPhysicalDeviceMemoryProperties(facts.handle, &memory_);
  // Reads from uncached device memory are slower than a staged copy by an order of magnitude: only memory that the host
  // caches is used directly.
  constexpr VkMemoryPropertyFlags mappedFlags = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT |
                                                VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
  for (uint32_t i = 0; i < memory_.memoryTypeCount && !forceStaging; ++i) {
    const VkMemoryPropertyFlags flags = memory_.memoryTypes[i].propertyFlags;
    const bool mapped = (flags & mappedFlags) == mappedFlags;
    if (mapped && (facts.software || (flags & VK_MEMORY_PROPERTY_HOST_CACHED_BIT))) direct_ = true;
  }
  VkCommandPoolCreateInfo pool{};
  pool.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
  pool.flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT;
  pool.queueFamilyIndex = facts.queueFamily;
  check(vk.vkCreateCommandPool(device, &pool, nullptr, &transferPool_), "creating a command pool");
  loadCache();
}

Core::~Core() {
  // Reached with live threads only if start() was never called.
  if (!destroyed_) destroyAll();
}

void Core::start() {
  patterns = std::make_shared<Buffer>(shared_from_this(), 1024);
  submitter_ = std::thread([this] { submitterLoop(); });
  waiter_ = std::thread([this] { waiterLoop(); });
  auto job = std::make_shared<Job>();
  uint8_t bytes[1024];
  for (size_t i = 0; i < 1024; ++i) bytes[i] = static_cast<uint8_t>(i / 4);
  if (patterns->mapped != nullptr) {
    std::memcpy(patterns->mapped, bytes, sizeof bytes);
    return;
  }
  static uint8_t shared[1024];  // outlives the job; every device writes the same bytes
  std::memcpy(shared, bytes, sizeof bytes);
  job->writes.push_back({patterns, 0, shared, sizeof bytes});
  enqueue(std::move(job));
}

// Memory ---------------------------------------------------------------------------------------------------------

uint32_t Core::memoryType(uint32_t allowed, bool staging) const {
  constexpr VkMemoryPropertyFlags visible = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
  const VkMemoryPropertyFlags wanted[] = {
      staging ? visible | VK_MEMORY_PROPERTY_HOST_CACHED_BIT
      : direct_ ? visible | VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_CACHED_BIT
                : static_cast<VkMemoryPropertyFlags>(VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT),
      staging ? visible
      : direct_ ? visible | VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT
                : static_cast<VkMemoryPropertyFlags>(0),
  };
  for (VkMemoryPropertyFlags flags : wanted)
    for (uint32_t i = 0; i < memory_.memoryTypeCount; ++i)
      if ((allowed >> i & 1) && (memory_.memoryTypes[i].propertyFlags & flags) == flags) return i;
  throw Error("E_DEVICE", "the device has no memory type for storage buffers");
}

Core::MemoryBlock Core::allocateMemory(VkBuffer buffer, bool staging) {
  VkMemoryRequirements needs{};
  vk.vkGetBufferMemoryRequirements(device, buffer, &needs);
  VkMemoryAllocateInfo allocate{};
  allocate.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO;
  allocate.allocationSize = needs.size;
  allocate.memoryTypeIndex = memoryType(needs.memoryTypeBits, staging);
  MemoryBlock block;
  check(vk.vkAllocateMemory(device, &allocate, nullptr, &block.memory), "allocating device memory");
  try {
    if (staging || direct_) {
      void* mapped = nullptr;
      check(vk.vkMapMemory(device, block.memory, 0, VK_WHOLE_SIZE, 0, &mapped), "mapping device memory");
      block.mapped = static_cast<uint8_t*>(mapped);
    }
    check(vk.vkBindBufferMemory(device, buffer, block.memory, 0), "binding device memory");
  } catch (...) {
    vk.vkFreeMemory(device, block.memory, nullptr);
    throw;
  }
  return block;
}

// Kernels --------------------------------------------------------------------------------------------------------

std::vector<std::shared_ptr<Kernel>> Core::loadKernels(const std::vector<KernelSource>& sources) {
  std::vector<std::shared_ptr<Kernel>> kernels(sources.size());
  std::atomic<size_t> next{0};
  std::mutex failureMutex;
  std::exception_ptr failure;
  size_t failedAt = sources.size();
  const auto work = [&] {
    for (size_t i = next++; i < sources.size(); i = next++) {
      try {
        try {
          kernels[i] = std::make_shared<Kernel>(shared_from_this(), sources[i]);
        } catch (const Error& error) {
          if (error.code() != "E_DEVICE") throw;
          throw Error("E_KERNEL", "kernel " + sources[i].name + ": " + error.what());
        }
      } catch (...) {
        std::lock_guard lock(failureMutex);
        if (i < failedAt) failure = std::current_exception(), failedAt = i;
      }
    }
  };
  const size_t threads = std::min<size_t>(std::max(1u, std::thread::hardware_concurrency()), sources.size());
  std::vector<std::thread> helpers;
  for (size_t i = 1; i < threads; ++i) helpers.emplace_back(work);
  work();
  for (std::thread& helper : helpers) helper.join();
  if (failure) std::rethrow_exception(failure);
  saveCache();
  return kernels;
}

void Core::loadCache() {
  std::vector<uint8_t> data;
  if (!cacheFile_.empty()) {
    std::ifstream file(std::filesystem::u8path(cacheFile_), std::ios::binary | std::ios::ate);
    const std::streamoff size = file ? static_cast<std::streamoff>(file.tellg()) : 0;
    CacheHeader header{};
    if (size > static_cast<std::streamoff>(sizeof header) && file.seekg(0) &&
        file.read(reinterpret_cast<char*>(&header), sizeof header) &&
        header.bytes == static_cast<uint64_t>(size) - sizeof header) {
      data.resize(header.bytes);
      file.read(reinterpret_cast<char*>(data.data()), static_cast<std::streamsize>(data.size()));
      const CacheHeader expected = cacheHeader(facts, data);
      // Other driver, truncated or damaged: start afresh, and overwrite it.
      if (!file || std::memcmp(&header, &expected, sizeof header) != 0) data.clear();
    }
  }
  savedCacheBytes_ = data.size();
  VkPipelineCacheCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO;
  create.initialDataSize = data.size();
  create.pInitialData = data.empty() ? nullptr : data.data();
  check(vk.vkCreatePipelineCache(device, &create, nullptr, &pipelineCache), "creating a pipeline cache");
}

/** Atomically, and silently where the disk does not play along: a cache is no promise. */
void Core::saveCache() {
  if (cacheFile_.empty()) return;
  std::lock_guard lock(cacheMutex_);
  size_t size = 0;
  if (vk.vkGetPipelineCacheData(device, pipelineCache, &size, nullptr) != VK_SUCCESS) return;
  if (size == 0 || size == savedCacheBytes_) return;
  std::vector<uint8_t> data(size);
  if (vk.vkGetPipelineCacheData(device, pipelineCache, &size, data.data()) != VK_SUCCESS) return;
  data.resize(size);
  try {
    namespace fs = std::filesystem;
    const fs::path target = fs::u8path(cacheFile_);
    fs::create_directories(target.parent_path());
    char suffix[64];
    std::snprintf(suffix, sizeof suffix, ".%llx.tmp",
                  static_cast<unsigned long long>(reinterpret_cast<uintptr_t>(this)) ^
                      static_cast<unsigned long long>(std::chrono::steady_clock::now().time_since_epoch().count()));
    fs::path temporary = target;
    temporary += suffix;
    const CacheHeader header = cacheHeader(facts, data);
    {
      std::ofstream file(temporary, std::ios::binary | std::ios::trunc);
      file.write(reinterpret_cast<const char*>(&header), sizeof header);
      file.write(reinterpret_cast<const char*>(data.data()), static_cast<std::streamsize>(data.size()));
      file.close();
      if (!file) {
        std::error_code ignored;
        fs::remove(temporary, ignored);
        return;
      }
    }
    std::error_code failed;
    fs::rename(temporary, target, failed);
    if (failed) {
      fs::remove(temporary, failed);
      return;
    }
    savedCacheBytes_ = size;
  } catch (const std::exception&) {
  }
}

// Queue ----------------------------------------------------------------------------------------------------------

void Core::enqueue(std::shared_ptr<Job> job) {
  std::lock_guard lock(mutex_);
  if (closing_) throw closedError();
  jobs_.push_back(std::move(job));
  changed_.notify_all();
}

void Core::submitterLoop() {
  for (;;) {
    std::shared_ptr<Job> job;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return !jobs_.empty() || closing_; });
      if (jobs_.empty()) {
        submitterDone_ = true;
        changed_.notify_all();
        return;
      }
      job = std::move(jobs_.front());
      jobs_.pop_front();
    }
    run(job);
  }
}

void Core::run(const std::shared_ptr<Job>& job) {
  auto batch = std::make_unique<Batch>();
  batch->job = job;
  try {
    {
      std::unique_lock lock(mutex_);
      if (lost_) std::rethrow_exception(lost_);
      changed_.wait(lock, [this] { return inFlight_ < kMaxBatchesInFlight; });
    }
    if (job->isAborted()) {
      job->writes.clear();
      job->reads.clear();
      job->list.reset();
    }
    if (direct_) {
      runDirect(*batch);
      flush(batch, true);
    } else {
      // Chunks fill up: a job may take several batches, each of which `flush` replaces.
      runStaged(*batch);
      flush(batch, true);
    }
  } catch (...) {
    auto failed = std::make_unique<Batch>();
    failed->error = std::current_exception();
    failed->job = job;
    failed->last = true;
    if (batch) {  // keep what was taken, so that it is given back
      failed->transfers = std::move(batch->transfers);
      failed->chunks = std::move(batch->chunks);
      failed->fence = batch->fence;
    }
    push(std::move(failed));
  }
}

void Core::runDirect(Batch& batch) {
  Job& job = *batch.job;
  if (job.zero) std::memset(job.zero->mapped, 0, job.zero->size);  // nobody else can use it yet
  bool wait = !job.writes.empty() || job.profile;
  {
    std::lock_guard lock(mutex_);
    wait = wait || hostReadPending_;
  }
  if (wait) waitIdle();
  for (const Transfer& write : job.writes) std::memcpy(write.buffer->mapped + write.offset, write.host, write.bytes);
  for (const Transfer& read : job.reads)
    batch.copies.push_back({read.host, read.buffer->mapped + read.offset, read.bytes});
  if (job.list) batch.commands.push_back(job.list->commands(job.profile));
  batch.profile = job.profile && job.list;
}

void Core::runStaged(Batch& first) {
  // `first` is replaced in place when its chunk is full, so that one reference serves all batches of the job.
  Job& job = *first.job;
  if (job.profile) waitIdle();
  const auto next = [&] {
    auto full = std::make_unique<Batch>(std::move(first));
    first = Batch{};
    first.job = full->job;
    flush(full, false);
  };
  const auto stage = [&](const std::vector<Transfer>& transfers, bool upload) {
    std::shared_ptr<Chunk> chunk;
    VkCommandBuffer commands = VK_NULL_HANDLE;
    for (const Transfer& transfer : transfers) {
      for (uint64_t done = 0; done < transfer.bytes;) {
        if (!chunk) {
          chunk = takeChunk();
          first.chunks.push_back(chunk);
          commands = beginTransfer(first);
        }
        const uint64_t bytes = std::min(transfer.bytes - done, kChunkBytes - chunk->used);
        uint8_t* const staged = chunk->block.mapped + chunk->used;
        VkBufferCopy copy{chunk->used, transfer.offset + done, bytes};
        if (upload) {
          std::memcpy(staged, transfer.host + done, bytes);
          vk.vkCmdCopyBuffer(commands, chunk->buffer, transfer.buffer->handle, 1, &copy);
        } else {
          std::swap(copy.srcOffset, copy.dstOffset);
          vk.vkCmdCopyBuffer(commands, transfer.buffer->handle, chunk->buffer, 1, &copy);
          first.copies.push_back({transfer.host + done, staged, bytes});
        }
        done += bytes;
        chunk->used += (bytes + 15) / 16 * 16;
        if (chunk->used >= kChunkBytes) {
          endTransfer(commands);
          chunk.reset();
          next();
        }
      }
    }
    if (chunk) endTransfer(commands);
  };
  if (job.zero) {
    VkCommandBuffer commands = beginTransfer(first);
    vk.vkCmdFillBuffer(commands, job.zero->handle, 0, VK_WHOLE_SIZE, 0);
    endTransfer(commands);
  }
  stage(job.writes, true);
  if (job.list) first.commands.push_back(job.list->commands(job.profile));
  first.profile = job.profile && job.list;
  const bool profiled = first.profile;
  stage(job.reads, false);
  first.profile = profiled;  // the results are fetched once, with the last batch
}

VkCommandBuffer Core::beginTransfer(Batch& batch) {
  VkCommandBuffer commands = VK_NULL_HANDLE;
  {
    std::lock_guard lock(mutex_);
    if (!transfers_.empty()) {
      commands = transfers_.back();
      transfers_.pop_back();
    }
  }
  if (commands == VK_NULL_HANDLE) {
    VkCommandBufferAllocateInfo allocate{};
    allocate.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO;
    allocate.commandPool = transferPool_;
    allocate.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
    allocate.commandBufferCount = 1;
    check(vk.vkAllocateCommandBuffers(device, &allocate, &commands), "allocating a command buffer");
  }
  check(vk.vkResetCommandBuffer(commands, 0), "recording a transfer");
  batch.transfers.push_back(commands);
  batch.commands.push_back(commands);
  VkCommandBufferBeginInfo begin{};
  begin.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
  begin.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
  check(vk.vkBeginCommandBuffer(commands, &begin), "recording a transfer");
  return commands;
}

void Core::endTransfer(VkCommandBuffer commands) {
  VkMemoryBarrier memory{};
  memory.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER;
  memory.srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT;
  memory.dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_READ_BIT |
                         VK_ACCESS_TRANSFER_WRITE_BIT | VK_ACCESS_HOST_READ_BIT;
  const VkPipelineStageFlags work = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
  vk.vkCmdPipelineBarrier(commands, VK_PIPELINE_STAGE_TRANSFER_BIT, work | VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &memory, 0,
                          nullptr, 0, nullptr);
  check(vk.vkEndCommandBuffer(commands), "recording a transfer");
}

std::shared_ptr<Core::Chunk> Core::takeChunk() {
  std::unique_lock lock(mutex_);
  if (chunks_.empty() && chunkCount_ < kMaxChunks) {
    ++chunkCount_;
    lock.unlock();
    auto chunk = std::make_shared<Chunk>();
    VkBufferCreateInfo create{};
    create.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
    create.size = kChunkBytes;
    create.usage = VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;
    check(vk.vkCreateBuffer(device, &create, nullptr, &chunk->buffer), "creating a staging buffer");
    try {
      chunk->block = allocateMemory(chunk->buffer, true);
    } catch (...) {
      vk.vkDestroyBuffer(device, chunk->buffer, nullptr);
      lock.lock();
      --chunkCount_;
      throw;
    }
    return chunk;
  }
  changed_.wait(lock, [this] { return !chunks_.empty(); });
  auto chunk = std::move(chunks_.back());
  chunks_.pop_back();
  chunk->used = 0;
  return chunk;
}

void Core::flush(std::unique_ptr<Batch>& batch, bool last) {
  batch->last = last;
  if (!batch->commands.empty()) {
    {
      std::lock_guard lock(mutex_);
      if (!fences_.empty()) {
        batch->fence = fences_.back();
        fences_.pop_back();
      }
    }
    if (batch->fence == VK_NULL_HANDLE) {
      VkFenceCreateInfo create{};
      create.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO;
      check(vk.vkCreateFence(device, &create, nullptr, &batch->fence), "creating a fence");
    }
    VkSubmitInfo submit{};
    submit.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
    submit.commandBufferCount = static_cast<uint32_t>(batch->commands.size());
    submit.pCommandBuffers = batch->commands.data();
    check(vk.vkQueueSubmit(queue_, 1, &submit, batch->fence), "submitting work");
    batch->submitted = true;
  }
  push(std::move(batch));
}

void Core::push(std::unique_ptr<Batch> batch) {
  std::lock_guard lock(mutex_);
  ++inFlight_;
  // A profiled list's queries and directly read memory must survive until the waiter has fetched them.
  if (batch->profile || (direct_ && !batch->copies.empty())) hostReadPending_ = true;
  batches_.push_back(std::move(batch));
  changed_.notify_all();
}

void Core::waitIdle() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return inFlight_ == 0; });
  if (lost_) std::rethrow_exception(lost_);
}

void Core::waiterLoop() {
  for (;;) {
    std::unique_ptr<Batch> batch;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return !batches_.empty() || submitterDone_; });
      if (batches_.empty()) break;
      batch = std::move(batches_.front());
      batches_.pop_front();
    }
    finish(*batch);
  }
  {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return users_ == 0; });
  }
  destroyAll();
  std::vector<std::shared_ptr<Completion>> closers;
  {
    std::lock_guard lock(mutex_);
    closed_ = true;
    closers.swap(closers_);
    changed_.notify_all();
  }
  for (const auto& closer : closers) closer->resolve();
}

/** Waits for a batch, moves its data out, gives back what it held and settles its job if it was the last. */
void Core::finish(Batch& batch) {
  Job& job = *batch.job;
  if (batch.error && !job.error) job.error = batch.error;
  try {
    if (batch.submitted) {
      VkResult result = VK_TIMEOUT;
      while (result == VK_TIMEOUT) result = vk.vkWaitForFences(device, 1, &batch.fence, VK_TRUE, 1'000'000'000ull);
      check(result, "waiting for the device");
    }
    if (!job.error && !job.isAborted()) {
      for (const HostCopy& copy : batch.copies) std::memcpy(copy.to, copy.from, copy.bytes);
      if (batch.profile && batch.last && job.list->queries() != VK_NULL_HANDLE && job.microseconds) {
        std::vector<uint64_t> stamps(2 * job.list->dispatches());
        check(vk.vkGetQueryPoolResults(device, job.list->queries(), 0, static_cast<uint32_t>(stamps.size()),
                                       stamps.size() * sizeof(uint64_t), stamps.data(), sizeof(uint64_t),
                                       VK_QUERY_RESULT_64_BIT | VK_QUERY_RESULT_WAIT_BIT),
              "reading timestamps");
        const uint64_t mask = facts.timestampBits >= 64 ? ~0ull : (1ull << facts.timestampBits) - 1;
        for (size_t i = 0; i + 1 < stamps.size(); i += 2)
          job.microseconds->push_back(static_cast<double>((stamps[i + 1] - stamps[i]) & mask) *
                                      facts.timestampNanoseconds / 1000);
      }
    }
  } catch (const Error& error) {
    if (!job.error) job.error = std::current_exception();
    std::lock_guard lock(mutex_);
    if (error.code() == "E_DEVICE_LOST" && !lost_) lost_ = std::current_exception();
  }
  if (batch.fence != VK_NULL_HANDLE) vk.vkResetFences(device, 1, &batch.fence);
  if (batch.last) {
    // Before the promise settles: a caller that closes or frees next must find its resources released.
    job.list.reset();
    job.writes.clear();
    job.reads.clear();
    job.zero.reset();
  }
  {
    std::lock_guard lock(mutex_);
    if (batch.fence != VK_NULL_HANDLE) fences_.push_back(batch.fence);
    transfers_.insert(transfers_.end(), batch.transfers.begin(), batch.transfers.end());
    chunks_.insert(chunks_.end(), batch.chunks.begin(), batch.chunks.end());
    if (--inFlight_ == 0) hostReadPending_ = false;
    changed_.notify_all();
  }
  if (!batch.last || !job.done) return;
  if (job.error) {
    job.done->reject(job.error);
  } else {
    job.done->resolve();
  }
}

// End ------------------------------------------------------------------------------------------------------------

Core::Use::Use(Core& core) : core_(core) {
  std::lock_guard lock(core_.mutex_);
  if (core_.closing_) throw closedError();
  ++core_.users_;
}
Core::Use::~Use() {
  std::lock_guard lock(core_.mutex_);
  --core_.users_;
  core_.changed_.notify_all();
}

void Core::close(std::shared_ptr<Completion> done) {
  std::lock_guard lock(mutex_);
  closing_ = true;
  changed_.notify_all();
  if (!done) return;
  if (closed_) {
    done->resolve();
  } else {
    closers_.push_back(std::move(done));
  }
}

void Core::closeAndJoin() {
  close(nullptr);
  if (submitter_.joinable()) submitter_.join();
  if (waiter_.joinable()) waiter_.join();
}

void Core::abandon() {
  std::deque<std::shared_ptr<Job>> forgotten;
  {
    std::lock_guard lock(mutex_);
    forgotten.swap(jobs_);
  }
  closeAndJoin();
}

void Core::add(Resource* resource) {
  std::lock_guard lock(registryMutex_);
  if (destroyed_) throw closedError();
  registry_.insert(resource);
}

void Core::retire(Resource* resource) {
  std::lock_guard lock(registryMutex_);
  if (registry_.erase(resource) > 0) resource->destroy();
}

void Core::destroyAll() {
  saveCache();
  vk.vkDeviceWaitIdle(device);
  {
    std::lock_guard lock(registryMutex_);
    for (Resource* resource : registry_) resource->destroy();
    registry_.clear();
    destroyed_ = true;
  }
  patterns.reset();
  for (const auto& chunk : chunks_) {
    vk.vkDestroyBuffer(device, chunk->buffer, nullptr);
    vk.vkFreeMemory(device, chunk->block.memory, nullptr);
  }
  chunks_.clear();
  for (VkFence fence : fences_) vk.vkDestroyFence(device, fence, nullptr);
  fences_.clear();
  vk.vkDestroyCommandPool(device, transferPool_, nullptr);
  vk.vkDestroyPipelineCache(device, pipelineCache, nullptr);
  vk.vkDestroyDevice(device, nullptr);
}

}  // namespace tutti::vulkan

#endif
