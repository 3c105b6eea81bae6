/** Who converts operators of which domain once their shapes are known: one line a frontend. */
import type { SourceResolvers } from '../passes/specialise.js';
import { domains, resolveOnnx } from './onnx/convert.js';

export const resolvers: SourceResolvers = new Map(Array.from(domains, (domain) => [domain, resolveOnnx]));
