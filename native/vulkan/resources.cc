// Buffers, kernels and command lists.

#ifndef TUTTI_NO_VULKAN_HEADERS

#include <algorithm>

#include "device.h"

namespace tutti::vulkan {

namespace {

constexpr VkPipelineStageFlags kWork = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
constexpr VkAccessFlags kWrites = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
constexpr VkAccessFlags kAll = kWrites | VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_TRANSFER_READ_BIT;

void barrier(const DeviceFunctions& vk, VkCommandBuffer commands, bool toHost) {
  VkMemoryBarrier memory{};
  memory.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER;
  memory.srcAccessMask = kWrites;
  memory.dstAccessMask = toHost ? kAll | VK_ACCESS_HOST_READ_BIT : kAll;
  vk.vkCmdPipelineBarrier(commands, kWork, toHost ? kWork | VK_PIPELINE_STAGE_HOST_BIT : kWork, 0, 1, &memory, 0,
                          nullptr, 0, nullptr);
}

VkBuffer handleOf(const gpu::Binding& binding) { return static_cast<const Buffer&>(*binding.buffer).handle; }

/** Fills any byte range: vkCmdFillBuffer takes whole words, so ragged ends are copied from the pattern buffer. */
void fill(const Device& device, VkCommandBuffer commands, const gpu::Binding& to, uint8_t byte) {
  const VkBuffer buffer = handleOf(to);
  const uint64_t begin = to.offset, end = to.offset + to.bytes;
  const uint64_t firstWord = std::min((begin + 3) / 4 * 4, end), lastWord = std::max(end / 4 * 4, firstWord);
  const auto ragged = [&](uint64_t from, uint64_t until) {
    if (from >= until) return;
    const VkBufferCopy copy{4ull * byte, from, until - from};
    device.vk.vkCmdCopyBuffer(commands, device.patterns->handle, buffer, 1, &copy);
  };
  ragged(begin, firstWord);
  if (lastWord > firstWord)
    device.vk.vkCmdFillBuffer(commands, buffer, firstWord, lastWord - firstWord, byte * 0x01010101u);
  ragged(lastWord, end);
}

}  // namespace

Buffer::Buffer(const std::shared_ptr<Device>& device, uint64_t wanted) : gpu::Buffer(device, wanted), device_(*device) {
  VkBufferCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO;
  create.size = size;
  create.usage =
      VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT;
  create.sharingMode = VK_SHARING_MODE_EXCLUSIVE;
  check(device_.vk.vkCreateBuffer(device_.device, &create, nullptr, &handle), "creating a buffer");
  try {
    const MemoryBlock block = device_.allocateMemory(handle, false);
    memory_ = block.memory;
    mapped = block.mapped;
  } catch (...) {
    destroy();
    throw;
  }
}

void Buffer::destroy() {
  device_.releaseLater([&c = device_, handle = handle, memory = memory_] {
    c.vk.vkDestroyBuffer(c.device, handle, nullptr);
    if (memory != VK_NULL_HANDLE) c.vk.vkFreeMemory(c.device, memory, nullptr);
  });
  handle = VK_NULL_HANDLE;
  memory_ = VK_NULL_HANDLE;
  mapped = nullptr;
}

Kernel::Kernel(const std::shared_ptr<Device>& device, const gpu::KernelSource& source)
    : gpu::Kernel(device, source), device_(*device) {
  Device& c = device_;
  VkShaderModule module = VK_NULL_HANDLE;
  try {
    std::vector<VkDescriptorSetLayoutBinding> slots(bindings);
    for (uint32_t i = 0; i < bindings; ++i)
      slots[i] = {i, VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, 1, VK_SHADER_STAGE_COMPUTE_BIT, nullptr};
    VkDescriptorSetLayoutCreateInfo set{};
    set.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO;
    set.bindingCount = bindings;
    set.pBindings = slots.data();
    check(c.vk.vkCreateDescriptorSetLayout(c.device, &set, nullptr, &setLayout), "creating a descriptor set layout");

    const VkPushConstantRange push{VK_SHADER_STAGE_COMPUTE_BIT, 0, scalarBytes};
    VkPipelineLayoutCreateInfo pipe{};
    pipe.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO;
    pipe.setLayoutCount = 1;
    pipe.pSetLayouts = &setLayout;
    pipe.pushConstantRangeCount = scalarBytes > 0 ? 1 : 0;
    pipe.pPushConstantRanges = &push;
    check(c.vk.vkCreatePipelineLayout(c.device, &pipe, nullptr, &layout), "creating a pipeline layout");

    VkShaderModuleCreateInfo shader{};
    shader.sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO;
    shader.codeSize = source.words.size() * sizeof(uint32_t);
    shader.pCode = source.words.data();
    check(c.vk.vkCreateShaderModule(c.device, &shader, nullptr, &module), "creating a shader module");

    VkPipelineShaderStageRequiredSubgroupSizeCreateInfo subgroup{};
    subgroup.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO;
    subgroup.requiredSubgroupSize = source.subgroupSize;
    VkComputePipelineCreateInfo create{};
    create.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO;
    create.stage.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO;
    create.stage.stage = VK_SHADER_STAGE_COMPUTE_BIT;
    create.stage.module = module;
    create.stage.pName = source.entry.c_str();
    if (source.subgroupSize != 0 && c.facts.subgroupSizeControl) create.stage.pNext = &subgroup;
    // Invocations belong to subgroups in order, with none left out.
    if (source.subgroupSize != 0 && c.facts.fullSubgroups && source.workgroup[0] % source.subgroupSize == 0)
      create.stage.flags |= VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT;
    create.layout = layout;
    check(c.vk.vkCreateComputePipelines(c.device, c.pipelineCache, 1, &create, nullptr, &pipeline),
          "creating a compute pipeline");
    c.vk.vkDestroyShaderModule(c.device, module, nullptr);
  } catch (...) {
    if (module != VK_NULL_HANDLE) c.vk.vkDestroyShaderModule(c.device, module, nullptr);
    destroy();
    throw;
  }
}

void Kernel::destroy() {
  Device& c = device_;
  if (pipeline != VK_NULL_HANDLE) c.vk.vkDestroyPipeline(c.device, pipeline, nullptr);
  if (layout != VK_NULL_HANDLE) c.vk.vkDestroyPipelineLayout(c.device, layout, nullptr);
  if (setLayout != VK_NULL_HANDLE) c.vk.vkDestroyDescriptorSetLayout(c.device, setLayout, nullptr);
  pipeline = VK_NULL_HANDLE;
  layout = VK_NULL_HANDLE;
  setLayout = VK_NULL_HANDLE;
}

List::List(const std::shared_ptr<Device>& device, std::vector<gpu::Command> recorded)
    : gpu::List(device, std::move(recorded)), device_(*device), sets_(commands.size()) {
  Device& c = device_;
  try {
    VkCommandPoolCreateInfo pool{};
    pool.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO;
    pool.queueFamilyIndex = c.facts.queueFamily;
    check(c.vk.vkCreateCommandPool(c.device, &pool, nullptr, &pool_), "creating a command pool");
    allocateSets();
    plain_ = record(false);
  } catch (...) {
    destroy();
    throw;
  }
}

void List::allocateSets() {
  Device& c = device_;
  uint32_t slots = 0;
  for (const gpu::Command& command : commands)
    if (command.kind == gpu::Command::Kind::dispatch) slots += command.kernel->bindings;
  if (slots == 0) return;
  const VkDescriptorPoolSize size{VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, slots};
  VkDescriptorPoolCreateInfo create{};
  create.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO;
  create.maxSets = static_cast<uint32_t>(dispatches);
  create.poolSizeCount = 1;
  create.pPoolSizes = &size;
  check(c.vk.vkCreateDescriptorPool(c.device, &create, nullptr, &descriptors_), "creating a descriptor pool");

  std::vector<VkDescriptorBufferInfo> ranges;
  std::vector<VkWriteDescriptorSet> writes;
  for (size_t i = 0; i < commands.size(); ++i) {
    const gpu::Command& command = commands[i];
    if (command.kind != gpu::Command::Kind::dispatch || command.bindings.empty()) continue;
    VkDescriptorSetAllocateInfo allocate{};
    allocate.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO;
    allocate.descriptorPool = descriptors_;
    allocate.descriptorSetCount = 1;
    allocate.pSetLayouts = &static_cast<const Kernel&>(*command.kernel).setLayout;
    check(c.vk.vkAllocateDescriptorSets(c.device, &allocate, &sets_[i]), "allocating a descriptor set");
    ranges.clear();
    writes.clear();
    for (const gpu::Binding& binding : command.bindings) {
      // Whole words, for kernels that read packed types by the word.
      const uint64_t bytes = std::min((binding.bytes + 3) / 4 * 4, binding.buffer->size - binding.offset);
      ranges.push_back({handleOf(binding), binding.offset, bytes});
    }
    VkWriteDescriptorSet write{};
    write.sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET;
    write.dstSet = sets_[i];
    write.descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER;
    write.descriptorCount = static_cast<uint32_t>(ranges.size());
    write.pBufferInfo = ranges.data();
    c.vk.vkUpdateDescriptorSets(c.device, 1, &write, 0, nullptr);
  }
}

VkCommandBuffer List::recorded(bool profile) {
  if (!profile || dispatches == 0) return plain_;
  if (instrumented_ == VK_NULL_HANDLE) {
    Device& c = device_;
    if (queries_ == VK_NULL_HANDLE) {
      VkQueryPoolCreateInfo create{};
      create.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO;
      create.queryType = VK_QUERY_TYPE_TIMESTAMP;
      create.queryCount = static_cast<uint32_t>(2 * dispatches);
      check(c.vk.vkCreateQueryPool(c.device, &create, nullptr, &queries_), "creating a query pool");
    }
    instrumented_ = record(true);
  }
  return instrumented_;
}

VkCommandBuffer List::record(bool profile) {
  Device& c = device_;
  const DeviceFunctions& vk = c.vk;
  VkCommandBufferAllocateInfo allocate{};
  allocate.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO;
  allocate.commandPool = pool_;
  allocate.level = VK_COMMAND_BUFFER_LEVEL_PRIMARY;
  allocate.commandBufferCount = 1;
  VkCommandBuffer target = VK_NULL_HANDLE;
  check(vk.vkAllocateCommandBuffers(c.device, &allocate, &target), "allocating a command buffer");
  VkCommandBufferBeginInfo begin{};
  begin.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO;
  begin.flags = VK_COMMAND_BUFFER_USAGE_SIMULTANEOUS_USE_BIT;  // replays may queue up behind each other
  check(vk.vkBeginCommandBuffer(target, &begin), "recording");
  if (profile) vk.vkCmdResetQueryPool(target, queries_, 0, static_cast<uint32_t>(2 * dispatches));
  uint32_t query = 0;
  VkPipeline bound = VK_NULL_HANDLE;
  for (size_t i = 0; i < commands.size(); ++i) {
    const gpu::Command& command = commands[i];
    switch (command.kind) {
      case gpu::Command::Kind::dispatch: {
        const Kernel& kernel = static_cast<const Kernel&>(*command.kernel);
        if (bound != kernel.pipeline) vk.vkCmdBindPipeline(target, VK_PIPELINE_BIND_POINT_COMPUTE, kernel.pipeline);
        bound = kernel.pipeline;
        if (sets_[i] != VK_NULL_HANDLE)
          vk.vkCmdBindDescriptorSets(target, VK_PIPELINE_BIND_POINT_COMPUTE, kernel.layout, 0, 1, &sets_[i], 0,
                                     nullptr);
        if (!command.scalars.empty())
          vk.vkCmdPushConstants(target, kernel.layout, VK_SHADER_STAGE_COMPUTE_BIT, 0,
                                static_cast<uint32_t>(command.scalars.size()), command.scalars.data());
        if (profile) vk.vkCmdWriteTimestamp(target, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, queries_, query++);
        vk.vkCmdDispatch(target, command.grid[0], command.grid[1], command.grid[2]);
        if (profile) vk.vkCmdWriteTimestamp(target, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, queries_, query++);
        break;
      }
      case gpu::Command::Kind::copy: {
        const gpu::Binding& from = command.bindings[0];
        const gpu::Binding& to = command.bindings[1];
        if (from.bytes == 0) break;
        const VkBufferCopy copy{from.offset, to.offset, from.bytes};
        vk.vkCmdCopyBuffer(target, handleOf(from), handleOf(to), 1, &copy);
        break;
      }
      case gpu::Command::Kind::fill:
        fill(c, target, command.bindings[0], command.byte);
        break;
      case gpu::Command::Kind::barrier:
        barrier(vk, target, false);
        break;
    }
  }
  barrier(vk, target, true);  // for the next submission and for the host
  check(vk.vkEndCommandBuffer(target), "recording");
  return target;
}

void List::destroy() {
  Device& c = device_;
  if (queries_ != VK_NULL_HANDLE) c.vk.vkDestroyQueryPool(c.device, queries_, nullptr);
  if (descriptors_ != VK_NULL_HANDLE) c.vk.vkDestroyDescriptorPool(c.device, descriptors_, nullptr);
  if (pool_ != VK_NULL_HANDLE) c.vk.vkDestroyCommandPool(c.device, pool_, nullptr);
  queries_ = VK_NULL_HANDLE;
  descriptors_ = VK_NULL_HANDLE;
  pool_ = VK_NULL_HANDLE;
}

}  // namespace tutti::vulkan

#endif
