/** All backends by name. Each is loaded when it is first asked for. */
import type { Backend, BackendName } from './backend.js';

export type Backends = Readonly<Partial<Record<BackendName, () => Promise<Backend>>>>;

const webgpu = async (): Promise<Backend> => (await import('./webgpu/index.js')).webgpuBackend;

/**
 * Best first: what to prefer where several backends offer the same hardware. The CPU comes last.
 * @param node False in a browser, which has webgpu alone.
 */
export async function backends(node: boolean): Promise<Backends> {
  if (!node) return { webgpu };
  const { cpu, ...others } = (await import('./node.js')).nodeBackends;
  return { ...others, webgpu, cpu };
}
