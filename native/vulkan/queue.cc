// The queue: the submitter's and the waiter's thread, and a job's way through them.

#ifndef TUTTI_NO_VULKAN_HEADERS

#include <cstring>
#include <exception>

#include "batch.h"

namespace tutti::vulkan {

namespace {

constexpr size_t kMaxBatchesInFlight = 64;

}  // namespace

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

}  // namespace tutti::vulkan

#endif
