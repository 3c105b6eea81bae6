// GNU's heap takes blocks beyond a threshold from the system, one by one, and returns what is free at its top beyond twice
// as much. It learns the threshold: when a larger block is given back, that becomes the threshold, up to 32 MiB. So one
// block that nobody has touched is enough, and nothing else is set: who has chosen thresholds (mallopt, MALLOC_…,
// GLIBC_TUNABLES) has switched the learning off, and keeps what was chosen.

#include "heap.h"

#include <cstdlib>

#ifdef __GLIBC__
#include <mutex>
#endif

namespace tutti {

void keepFreedMemory() {
#ifdef __GLIBC__
  static std::once_flag once;
  std::call_once(once, [] {
    // Of 32 MiB with the heap's own header and whole pages.
    constexpr std::size_t largest = (4 << 20) * sizeof(long) - (64 << 10);
    // Volatile: a compiler may leave out a block that is not used.
    void* volatile block = std::malloc(largest);
    std::free(block);
  });
#endif
}

}  // namespace tutti
