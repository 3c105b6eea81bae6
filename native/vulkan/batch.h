// What the queue's parts (queue.cc, transfer.cc) share: a submission to the device on its way.

#pragma once

#ifndef TUTTI_NO_VULKAN_HEADERS

#include <exception>

#include "device.h"

namespace tutti::vulkan {

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

}  // namespace tutti::vulkan

#endif
