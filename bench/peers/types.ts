/** What runs a case beside us. */
import type { Peer } from '../../cli/peers.js';
import type { Tensor } from '../../runtime/tensor.js';
import type { Work } from '../cases/types.js';

export type KernelSubject = Peer;

/** What a peer may need beyond the case itself. */
export interface Prepared {
  /** The case's graph as an ONNX file. */
  onnx(): Uint8Array;
  /** Taken in turn, run by run. */
  readonly feeds: readonly Readonly<Record<string, Tensor>>[];
}

export interface KernelPeer {
  readonly name: string;
  /** Whether it has such work at all: if not, it gets no row. */
  takes(one: Work): boolean;
  /** @throws with the reason why it cannot run here, which the row then says */
  open(one: Work, prepared: Prepared): Promise<KernelSubject>;
  /** Lets go of what is shared between cases. */
  close(): Promise<void>;
}
