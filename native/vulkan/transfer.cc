// How host data reaches a job: straight into mapped memory, or through staging chunks as commands of the queue.

#ifndef TUTTI_NO_VULKAN_HEADERS

#include <algorithm>
#include <cstring>

#include "batch.h"

namespace tutti::vulkan {

namespace {

constexpr uint64_t kChunkBytes = 16ull << 20;
constexpr size_t kMaxChunks = 8;

}  // namespace

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

}  // namespace tutti::vulkan

#endif
