/** ONNX Runtime, given the same graph as a model. */
import { openPeer, type peerNames } from '../../cli/peers.js';
import type { KernelPeer } from './types.js';

export const onnxruntime = (name: (typeof peerNames)[number]): KernelPeer => ({
  name,
  takes: () => true,
  open: (_, { onnx, feeds }) => openPeer(name, onnx(), feeds),
  close: async () => {},
});
