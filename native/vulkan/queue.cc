// How batches reach the device's queue and come back: see ../common/queue.cc for the order of the calls.

#ifndef TUTTI_NO_VULKAN_HEADERS

#include "device.h"

namespace tutti::vulkan {

namespace {

Batch& own(gpu::Batch& batch) { return static_cast<Batch&>(batch); }
VkBuffer handleOf(gpu::Buffer& buffer) { return static_cast<Buffer&>(buffer).handle; }

}  // namespace

// Submitter ------------------------------------------------------------------------------------------------------

std::unique_ptr<gpu::Batch> Device::newBatch() { return std::make_unique<Batch>(); }

void Device::upload(gpu::Batch& batch, uint64_t from, gpu::Buffer& to, uint64_t offset, uint64_t bytes) {
  const VkBufferCopy copy{from, offset, bytes};
  vk.vkCmdCopyBuffer(transferCommands(own(batch)), ring_, handleOf(to), 1, &copy);
}

void Device::launch(gpu::Batch& batch, gpu::List& list, bool profile) {
  auto& recorded = static_cast<List&>(list);
  endTransfers(own(batch));
  own(batch).commands.push_back(recorded.recorded(profile));
  batch.timed = profile && recorded.queries() != VK_NULL_HANDLE;
}

void Device::download(gpu::Batch& batch, gpu::Buffer& from, uint64_t offset, uint64_t to, uint64_t bytes) {
  const VkBufferCopy copy{offset, to, bytes};
  vk.vkCmdCopyBuffer(transferCommands(own(batch)), handleOf(from), ring_, 1, &copy);
}

void Device::submit(gpu::Batch& base) {
  Batch& batch = own(base);
  endTransfers(batch);
  if (batch.commands.empty()) return;
  {
    std::lock_guard lock(poolsMutex_);
    if (!fences_.empty()) {
      batch.fence = fences_.back();
      fences_.pop_back();
    }
  }
  if (batch.fence == VK_NULL_HANDLE) {
    VkFenceCreateInfo create{};
    create.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO;
    check(vk.vkCreateFence(device, &create, nullptr, &batch.fence), "creating a fence");
  }
  VkSubmitInfo submit{};
  submit.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO;
  submit.commandBufferCount = static_cast<uint32_t>(batch.commands.size());
  submit.pCommandBuffers = batch.commands.data();
  check(vk.vkQueueSubmit(queue_, 1, &submit, batch.fence), "submitting work");
  batch.submitted = true;
}

/** A command buffer that takes transfers: the one begun last, unless a list came after it. */
VkCommandBuffer Device::transferCommands(Batch& batch) {
  if (batch.open != VK_NULL_HANDLE) return batch.open;
  VkCommandBuffer commands = VK_NULL_HANDLE;
  {
    std::lock_guard lock(poolsMutex_);
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
  batch.transfers.push_back(commands);
  check(vk.vkResetCommandBuffer(commands, 0), "recording a transfer");
  VkCommandBufferBeginInfo begin{};
  begin.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
  begin.flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT;
  check(vk.vkBeginCommandBuffer(commands, &begin), "recording a transfer");
  batch.commands.push_back(commands);
  batch.open = commands;
  return commands;
}

void Device::endTransfers(Batch& batch) {
  if (batch.open == VK_NULL_HANDLE) return;
  VkMemoryBarrier memory{};
  memory.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER;
  memory.srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT;
  memory.dstAccessMask = VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_READ_BIT |
                         VK_ACCESS_TRANSFER_WRITE_BIT | VK_ACCESS_HOST_READ_BIT;
  const VkPipelineStageFlags work = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
  vk.vkCmdPipelineBarrier(batch.open, VK_PIPELINE_STAGE_TRANSFER_BIT, work | VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &memory,
                          0, nullptr, 0, nullptr);
  check(vk.vkEndCommandBuffer(batch.open), "recording a transfer");
  batch.open = VK_NULL_HANDLE;
}

// Waiter ---------------------------------------------------------------------------------------------------------

void Device::wait(gpu::Batch& base) {
  Batch& batch = own(base);
  if (!batch.submitted) return;
  VkResult result = VK_TIMEOUT;
  while (result == VK_TIMEOUT) result = vk.vkWaitForFences(device, 1, &batch.fence, VK_TRUE, 1'000'000'000ull);
  check(result, "waiting for the device");
}

void Device::readTimes(gpu::Batch& batch, std::vector<double>& microseconds) {
  const auto& list = static_cast<const List&>(*batch.job->list);
  std::vector<uint64_t> stamps(2 * list.dispatches);
  check(vk.vkGetQueryPoolResults(device, list.queries(), 0, static_cast<uint32_t>(stamps.size()),
                                 stamps.size() * sizeof(uint64_t), stamps.data(), sizeof(uint64_t),
                                 VK_QUERY_RESULT_64_BIT | VK_QUERY_RESULT_WAIT_BIT),
        "reading timestamps");
  const uint64_t mask = facts.timestampBits >= 64 ? ~0ull : (1ull << facts.timestampBits) - 1;
  for (size_t i = 0; i + 1 < stamps.size(); i += 2)
    microseconds.push_back(static_cast<double>((stamps[i + 1] - stamps[i]) & mask) * facts.timestampNanoseconds / 1000);
}

void Device::recycle(gpu::Batch& base) noexcept {
  Batch& batch = own(base);
  if (batch.fence != VK_NULL_HANDLE) vk.vkResetFences(device, 1, &batch.fence);
  std::lock_guard lock(poolsMutex_);
  if (batch.fence != VK_NULL_HANDLE) fences_.push_back(batch.fence);
  transfers_.insert(transfers_.end(), batch.transfers.begin(), batch.transfers.end());
}

}  // namespace tutti::vulkan

#endif
