// Everything that the metal driver asks of the Objective-C runtime and of Metal, as tables: C functions, classes,
// messages with their signatures, structs and constants. Nothing of Apple's is needed to build; the names are looked
// up at run time.
//
// Memory rules are Objective-C's: what a function whose name begins with `copy` or `new` returns (also
// MTLCopyAllDevices) is the caller's to release, everything else is autoreleased. The driver sends messages only
// inside an autorelease pool, and releases with objc_release what it owns. `error` out-parameters get an autoreleased
// NSError.
//
// The virtual device of the test suite exports the functions and data below and answers these messages, and no others
// are sent. Its devices' names begin with "Tutti Virtual".

#pragma once

#include <cstddef>
#include <cstdint>

namespace tutti::metal {

using id = struct objc_object*;
using SEL = struct objc_selector*;
using NSUInteger = uintptr_t;
using NSInteger = intptr_t;
using CFTimeInterval = double;
/** What objc_autoreleasePoolPush gives. */
using Pool = void*;

static_assert(sizeof(void*) == 8, "64-bit systems only");

struct NSRange {
  NSUInteger location, length;
};
/**
 * Passed by value as the platform's C ABI has it; returned through objc_msgSend_stret on x86-64, objc_msgSend
 * elsewhere.
 */
struct MTLSize {
  NSUInteger width, height, depth;
};

// Blocks (https://clang.llvm.org/docs/Block-ABI-Apple.html) -------------------------------------------------------

struct BlockDescriptor {
  unsigned long reserved;
  unsigned long size;
};
/**
 * Argument of addCompletedHandler:. A block on the stack without copy helpers: the receiver copies it with the rules
 * of _Block_copy (allocate `descriptor->size` bytes, copy bitwise), calls `invoke(block, commandBuffer)` once, on any
 * thread, when the command buffer has completed or failed, and frees its copy. `context` is the driver's.
 */
struct CompletedHandler {
  void* isa;  // &_NSConcreteStackBlock
  int flags;  // 0
  int reserved;
  void (*invoke)(CompletedHandler* self, id commandBuffer);
  const BlockDescriptor* descriptor;
  void* context;
};

// C functions and data --------------------------------------------------------------------------------------------

// X(name, result, parameters). From libobjc.
#define TUTTI_METAL_RUNTIME_FUNCTIONS(X)             \
  X(objc_getClass, id, (const char* name))           \
  X(sel_registerName, SEL, (const char* name))       \
  X(objc_retain, id, (id object))                    \
  X(objc_release, void, (id object))                 \
  X(objc_autoreleasePoolPush, Pool, ())              \
  X(objc_autoreleasePoolPop, void, (Pool pool))

// Same, from Metal.
#define TUTTI_METAL_FUNCTIONS(X) X(MTLCopyAllDevices, id, ()) /* NSArray of MTLDevice, the caller's */

// Without a prototype of their own: objc_msgSend, and on x86-64 objc_msgSend_stret (results above 16 bytes: the address
// of the result comes first, then receiver and selector). A message to nil gives zero. Data: _NSConcreteStackBlock.

/** Classes that are asked for by name. */
#define TUTTI_METAL_CLASSES(X)          \
  X(NSArray)                            \
  X(NSProcessInfo)                      \
  X(NSString)                           \
  X(NSURL)                              \
  X(MTLBinaryArchiveDescriptor)         \
  X(MTLCompileOptions)                  \
  X(MTLComputePassDescriptor)           \
  X(MTLComputePipelineDescriptor)       \
  X(MTLCounterSampleBufferDescriptor)   \
  X(MTLIndirectCommandBufferDescriptor)

// Messages --------------------------------------------------------------------------------------------------------

// X(member, selector, signature): the signature leaves out receiver and selector. Where one selector serves several
// classes, it stands at the first. [class] marks messages to classes, [optional] those sent only if the receiver says
// that it responds to them. BOOL is C++'s bool. `std::type_identity_t<signature>` names the type in declarations.
#define TUTTI_METAL_MESSAGES(X)                                                                                       \
  /* NSObject */                                                                                                      \
  X(new_, "new", id()) /* [class] +1; of every class whose name ends in Descriptor or Options */                      \
  X(respondsToSelector, "respondsToSelector:", bool(SEL))                                                             \
  /* NSString */                                                                                                      \
  X(stringWithUTF8String, "stringWithUTF8String:", id(const char*)) /* [class] */                                     \
  X(UTF8String, "UTF8String", const char*())                                                                          \
  /* NSArray */                                                                                                       \
  X(arrayWithObject, "arrayWithObject:", id(id)) /* [class] */                                                        \
  X(count, "count", NSUInteger())                                                                                     \
  X(objectAtIndex, "objectAtIndex:", id(NSUInteger))                                                                  \
  /* NSURL */                                                                                                         \
  X(fileURLWithPath, "fileURLWithPath:", id(id)) /* [class] NSString */                                               \
  /* NSError */                                                                                                       \
  X(localizedDescription, "localizedDescription", id()) /* NSString */                                                \
  X(code, "code", NSInteger())                                                                                        \
  X(domain, "domain", id()) /* NSString */                                                                            \
  /* NSData */                                                                                                        \
  X(bytes, "bytes", const void*())                                                                                    \
  X(length, "length", NSUInteger()) /* also MTLBuffer */                                                              \
  /* NSProcessInfo */                                                                                                 \
  X(processInfo, "processInfo", id()) /* [class] */                                                                   \
  X(operatingSystemVersionString, "operatingSystemVersionString", id()) /* NSString */                                \
  /* MTLDevice */                                                                                                     \
  X(name, "name", id()) /* NSString; also MTLCounterSet */                                                            \
  X(registryID, "registryID", uint64_t())                                                                             \
  X(supportsFamily, "supportsFamily:", bool(NSInteger)) /* MTLGPUFamily */                                            \
  X(hasUnifiedMemory, "hasUnifiedMemory", bool())                                                                     \
  X(isLowPower, "isLowPower", bool())                                                                                 \
  X(maxThreadgroupMemoryLength, "maxThreadgroupMemoryLength", NSUInteger())                                           \
  X(maxThreadsPerThreadgroup, "maxThreadsPerThreadgroup", MTLSize())                                                  \
  X(maxBufferLength, "maxBufferLength", NSUInteger())                                                                 \
  X(recommendedMaxWorkingSetSize, "recommendedMaxWorkingSetSize", uint64_t())                                         \
  X(newCommandQueueWithMaxCommandBufferCount, "newCommandQueueWithMaxCommandBufferCount:", id(NSUInteger)) /* +1 */   \
  X(newBufferWithLength, "newBufferWithLength:options:", id(NSUInteger, NSUInteger)) /* +1, nil: no memory */         \
  X(newLibraryWithSource, "newLibraryWithSource:options:error:", id(id, id, id*)) /* +1: NSString, MTLCompileOptions */ \
  X(newComputePipelineState, "newComputePipelineStateWithDescriptor:options:reflection:error:",                       \
    id(id, NSUInteger, id*, id*)) /* +1: options 0, reflection null */                                                \
  X(newBinaryArchive, "newBinaryArchiveWithDescriptor:error:", id(id, id*)) /* +1 */                                  \
  X(newIndirectCommandBuffer, "newIndirectCommandBufferWithDescriptor:maxCommandCount:options:",                      \
    id(id, NSUInteger, NSUInteger)) /* +1 */                                                                          \
  X(supportsCounterSampling, "supportsCounterSampling:", bool(NSUInteger)) /* [optional] MTLCounterSamplingPoint */   \
  X(counterSets, "counterSets", id()) /* NSArray of MTLCounterSet, or nil */                                          \
  X(newCounterSampleBuffer, "newCounterSampleBufferWithDescriptor:error:", id(id, id*)) /* +1 */                      \
  X(sampleTimestamps, "sampleTimestamps:gpuTimestamp:", void(uint64_t*, uint64_t*)) /* CPU: ns; GPU: its ticks */     \
  /* MTLCompileOptions */                                                                                             \
  X(setFastMathEnabled, "setFastMathEnabled:", void(bool))                                                             \
  X(setMathMode, "setMathMode:", void(NSInteger)) /* [optional] 0: safe */                                            \
  /* MTLLibrary */                                                                                                    \
  X(newFunctionWithName, "newFunctionWithName:", id(id)) /* +1, nil: none of that name */                             \
  /* MTLComputePipelineDescriptor */                                                                                  \
  X(setComputeFunction, "setComputeFunction:", void(id))                                                              \
  X(setSupportIndirectCommandBuffers, "setSupportIndirectCommandBuffers:", void(bool))                                 \
  X(setMaxTotalThreadsPerThreadgroup, "setMaxTotalThreadsPerThreadgroup:", void(NSUInteger))                          \
  X(setBinaryArchives, "setBinaryArchives:", void(id)) /* NSArray of MTLBinaryArchive, looked into first */           \
  X(setLabel, "setLabel:", void(id)) /* NSString; also MTLBuffer, MTLCommandBuffer and others */                      \
  /* MTLComputePipelineState */                                                                                       \
  X(maxTotalThreadsPerThreadgroup, "maxTotalThreadsPerThreadgroup", NSUInteger())                                     \
  /* MTLBinaryArchiveDescriptor, MTLBinaryArchive */                                                                  \
  X(setUrl, "setUrl:", void(id)) /* nil: a new archive. NSURL: of a file written by serializeToURL */                 \
  X(addComputePipelineFunctions, "addComputePipelineFunctionsWithDescriptor:error:", bool(id, id*))                   \
  X(serializeToURL, "serializeToURL:error:", bool(id, id*))                                                           \
  /* MTLBuffer */                                                                                                     \
  X(contents, "contents", void*()) /* null for private storage */                                                     \
  /* MTLCommandQueue */                                                                                               \
  X(commandBuffer, "commandBuffer", id()) /* keeps what its commands use; waits while too many are in flight */       \
  /* MTLCommandBuffer */                                                                                              \
  X(computeCommandEncoderWithDispatchType, "computeCommandEncoderWithDispatchType:", id(NSUInteger))                  \
  X(computeCommandEncoderWithDescriptor, "computeCommandEncoderWithDescriptor:", id(id)) /* ComputePassDescriptor */  \
  X(blitCommandEncoder, "blitCommandEncoder", id())                                                                   \
  X(addCompletedHandler, "addCompletedHandler:", void(CompletedHandler*))                                             \
  X(commit, "commit", void())                                                                                         \
  X(waitUntilCompleted, "waitUntilCompleted", void())                                                                 \
  X(status, "status", NSUInteger()) /* MTLCommandBufferStatus */                                                      \
  X(error, "error", id()) /* NSError or nil */                                                                        \
  X(GPUStartTime, "GPUStartTime", CFTimeInterval()) /* seconds */                                                     \
  X(GPUEndTime, "GPUEndTime", CFTimeInterval())                                                                       \
  /* MTLCommandEncoder: compute and blit */                                                                           \
  X(endEncoding, "endEncoding", void())                                                                               \
  /* MTLComputeCommandEncoder */                                                                                      \
  X(setComputePipelineState, "setComputePipelineState:", void(id)) /* also MTLIndirectComputeCommand */               \
  X(setBuffer, "setBuffer:offset:atIndex:", void(id, NSUInteger, NSUInteger))                                         \
  X(setBytes, "setBytes:length:atIndex:", void(const void*, NSUInteger, NSUInteger)) /* at most 4096 */               \
  X(dispatchThreadgroups, "dispatchThreadgroups:threadsPerThreadgroup:", void(MTLSize, MTLSize))                      \
  X(memoryBarrierWithScope, "memoryBarrierWithScope:", void(NSUInteger))                                              \
  X(useResources, "useResources:count:usage:", void(const id*, NSUInteger, NSUInteger))                               \
  X(executeCommandsInBuffer, "executeCommandsInBuffer:withRange:", void(id, NSRange))                                 \
  /* MTLBlitCommandEncoder: offsets and sizes are whole words, as macOS asks */                                       \
  X(copyFromBuffer, "copyFromBuffer:sourceOffset:toBuffer:destinationOffset:size:",                                   \
    void(id, NSUInteger, id, NSUInteger, NSUInteger))                                                                 \
  X(fillBuffer, "fillBuffer:range:value:", void(id, NSRange, uint8_t))                                                \
  /* MTLIndirectCommandBufferDescriptor, MTLIndirectCommandBuffer, MTLIndirectComputeCommand */                       \
  X(setCommandTypes, "setCommandTypes:", void(NSUInteger))                                                            \
  X(setInheritBuffers, "setInheritBuffers:", void(bool)) /* false */                                                   \
  X(setInheritPipelineState, "setInheritPipelineState:", void(bool)) /* false */                                       \
  X(setMaxKernelBufferBindCount, "setMaxKernelBufferBindCount:", void(NSUInteger))                                    \
  X(indirectComputeCommandAtIndex, "indirectComputeCommandAtIndex:", id(NSUInteger))                                  \
  X(setKernelBuffer, "setKernelBuffer:offset:atIndex:", void(id, NSUInteger, NSUInteger))                             \
  X(concurrentDispatchThreadgroups, "concurrentDispatchThreadgroups:threadsPerThreadgroup:", void(MTLSize, MTLSize))  \
  X(setBarrier, "setBarrier", void()) /* commands before it in the buffer end before it begins */                     \
  /* MTLCounterSampleBufferDescriptor, MTLCounterSampleBuffer */                                                      \
  X(setCounterSet, "setCounterSet:", void(id))                                                                        \
  X(setStorageMode, "setStorageMode:", void(NSUInteger))                                                              \
  X(setSampleCount, "setSampleCount:", void(NSUInteger)) /* at most 4096 */                                           \
  X(resolveCounterRange, "resolveCounterRange:", id(NSRange)) /* NSData of one uint64_t each */                       \
  /* MTLComputePassDescriptor and its array of attachments, of which the first is used */                             \
  X(setDispatchType, "setDispatchType:", void(NSUInteger))                                                            \
  X(sampleBufferAttachments, "sampleBufferAttachments", id())                                                         \
  X(objectAtIndexedSubscript, "objectAtIndexedSubscript:", id(NSUInteger))                                            \
  X(setSampleBuffer, "setSampleBuffer:", void(id))                                                                    \
  X(setStartOfEncoderSampleIndex, "setStartOfEncoderSampleIndex:", void(NSUInteger))                                  \
  X(setEndOfEncoderSampleIndex, "setEndOfEncoderSampleIndex:", void(NSUInteger))

// Constants -------------------------------------------------------------------------------------------------------

/** MTLResourceOptions: cache mode default, hazards tracked by Metal. */
constexpr NSUInteger kStorageShared = 0, kStoragePrivate = 2 << 4;
/** MTLDispatchType. Dispatches of a concurrent encoder are ordered by memory barriers only. */
constexpr NSUInteger kDispatchConcurrent = 1;
/** MTLBarrierScope. */
constexpr NSUInteger kScopeBuffers = 1;
/** MTLResourceUsage: read and write. */
constexpr NSUInteger kUsageReadWrite = 3;
/** MTLIndirectCommandType. */
constexpr NSUInteger kIndirectConcurrentDispatch = 1 << 5;
/** MTLCommandBufferStatus. */
constexpr NSUInteger kStatusError = 5;  // 4: completed
/** MTLCounterSamplingPoint. */
constexpr NSUInteger kSamplingAtStageBoundary = 0;
/** A sample that the device could not take. */
constexpr uint64_t kCounterError = ~0ull;
/** MTLCommonCounterSetTimestamp. */
constexpr const char* kTimestampCounterSet = "timestamp";

/** MTLCommandBufferError. */
constexpr const char* kCommandBufferErrorDomain = "MTLCommandBufferErrorDomain";
constexpr NSInteger kErrorInternal = 1, kErrorTimeout = 2, kErrorPageFault = 3, kErrorAccessRevoked = 4,
                    kErrorOutOfMemory = 8, kErrorDeviceRemoved = 11, kErrorStackOverflow = 12;

/** Offsets of buffers in the constant address space must be multiples of this on every device. */
constexpr uint32_t kConstantAlignment = 256;

// Changes (newest last): what the virtual device must follow.
//   1  first version
//   2  currentAllocatedSize, threadExecutionWidth and staticThreadgroupMemoryLength are not sent; the domain of errors

}  // namespace tutti::metal
