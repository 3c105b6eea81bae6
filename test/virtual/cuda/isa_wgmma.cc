#include "lower.h"

namespace vcuda {

void addWarpgroups(LoweringTable&) {}

}  // namespace vcuda
