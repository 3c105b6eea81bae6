/** The lowering families: who turns a group into kernels. */
import { TuttiError } from '../error.js';
import { describe } from '../graph/builder.js';
import type { Target } from '../kernel/target.js';
import type { KernelFunction } from '../kernel/types.js';
import { lowerAttend } from './attend/index.js';
import { lowerContract } from './contract/index.js';
import type { Prefer } from './forms.js';
import { bindingsOf, type Group } from './group.js';
import type { LoweredKernel } from './lowered.js';
import { lowerMap } from './map.js';
import { lowerRows } from './rows.js';
import { lowerSpecial } from './special.js';
import { lowerWindow } from './window.js';

/** The kernels that compute a group, to be run in order. @throws TuttiError E_UNSUPPORTED naming the source node. */
export function lowerGroup(group: Group, target: Target, prefer?: Prefer): readonly LoweredKernel[] {
  const whole = (kernel: KernelFunction): readonly LoweredKernel[] => [{ kernel, bindings: bindingsOf(group) }];
  switch (group.family) {
    case 'map':
      return whole(lowerMap(group, target));
    case 'rows':
      return whole(lowerRows(group, target));
    case 'window':
      return whole(lowerWindow(group, target));
    case 'contract':
      return lowerContract(group, target, prefer);
    case 'attend':
      return lowerAttend(group, target);
    case 'special':
      return lowerSpecial(group, target);
    case 'loop':
      throw new Error('loops are planned, not lowered to a kernel');
    case 'host': {
      const [node] = group.nodes;
      throw new TuttiError('E_UNSUPPORTED', `${node.op} has no kernel`, { subject: describe(node.source) });
    }
    default:
      return group.family satisfies never;
  }
}
