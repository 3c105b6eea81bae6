/**
 * Tutti in a browser or a worker of one: the API of Node over `navigator.gpu`, without anything of Node.
 *
 * ```ts
 * import { compile, Session, Tensor } from 'tutti/web';
 * const model = await compile('/models/net.onnx');                // an address, a File, bytes or a graph
 * const session = await Session.create(model);                    // or { device: gpuDevice }
 * const { y } = await session.run({ x: Tensor.from(pixels, [1, 3, 224, 224]) });
 * ```
 *
 * What differs: models are fetched, with their external data, instead of read; `Model.artifact` gives the bytes that
 * `Model.save` would write; the only backend is webgpu, which cannot `runSync`; no environment variables, no caches on disk.
 */
export * from '../index.js';
