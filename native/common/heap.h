// What the C library's heap does with the memory of results, which V8 takes from there and gives back to it.

#pragma once

namespace tutti {

/**
 * Lets the heap keep what is given back, up to some tens of megabytes, instead of returning it to the system, which
 * would hand it out again page by page: for a result of 256 KiB that takes longer than some products that fill it.
 * Once a process; where the C library is not GNU's nothing is done.
 */
void keepFreedMemory();

}  // namespace tutti
