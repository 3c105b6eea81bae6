#include "async.h"

namespace vcuda {

void lowerCpAsyncBulk(Assembler& a) { a.fail("cp.async.bulk is not known to this device"); }

void addBulkCopies(LoweringTable&) {}

}  // namespace vcuda
