/** Kernel IR → PTX: one entry function; its parameters are the buffers' pointers in binding order, then scalars and tensor maps. */
import { TuttiError } from '../../compiler/error.js';
import type { KTensorMap } from '../../compiler/kernel/engines.js';
import { type HelperFunction, type KernelFunction, scalarBits } from '../../compiler/kernel/types.js';
import type { KernelCode, Target, TensorMapCode } from '../backend.js';
import { BodyRenderer } from './body.js';
import { mapParameter } from './bulk.js';
import { type Module, warp } from './module.js';
import { loadParam, paramOf, storeParam } from './params.js';
import { FunctionText } from './ptx.js';
import { blockName, SharedLayout } from './shared.js';
import { Survey } from './survey.js';
import { archNamed } from './target.js';

export function render(kernel: KernelFunction, target: Target): KernelCode {
  const arch = archNamed(target.arch);
  if (!arch) throw new TuttiError('E_KERNEL', 'not a CUDA architecture', { subject: kernel.name, found: target.arch });
  if (kernel.subgroupSize !== undefined && kernel.subgroupSize !== warp) {
    throw new TuttiError('E_KERNEL', 'CUDA has subgroups of one width', {
      subject: kernel.name,
      expected: String(warp),
      found: String(kernel.subgroupSize),
      remedy: 'Schedule the kernel for the cuda target.',
    });
  }
  const entry = `tutti_${kernel.name.replace(/[^A-Za-z0-9_]/g, '_')}`;
  const survey = new Survey(kernel);
  const functions = new Map<HelperFunction, string>();
  const shared = new SharedLayout(kernel);
  const module: Module = { kernel, arch, survey, shared, entry, functions };
  const parts: string[] = [];
  survey.functions.forEach((helper, i) => {
    const name = `${entry}_f${i}`;
    parts.push(renderFunction(module, helper, name));
    functions.set(helper, name);
  });
  const from = kernel.sources.length > 0 ? ` from ${kernel.sources.join(', ')}` : '';
  const text = [
    `// ${(kernel.name + from).replace(/[^\x20-\x7e]/g, '?')}`,
    `.version ${arch.ptx.join('.')}`,
    `.target ${arch.name}`,
    '.address_size 64',
    ...shared.declarations(blockName(entry)),
    ...parts,
    renderEntry(module, entry),
    '',
  ].join('\n');
  return {
    name: kernel.name,
    text,
    entry,
    workgroup: kernel.workgroup,
    bindings: kernel.params.filter((param) => param.kind === 'buffer').map(({ access }) => access),
    scalarBytes: 4 * kernel.params.filter((param) => param.kind === 'scalar').length,
    sharedBytes: shared.bytes,
    ...(shared.isDynamic ? { dynamicSharedBytes: shared.bytes } : {}),
    ...(kernel.maps.length > 0 ? { tensorMaps: kernel.maps.map((map) => tensorMap(map, kernel)) } : {}),
    ...(kernel.subgroupSize === undefined ? {} : { subgroupSize: kernel.subgroupSize }),
  };
}

function tensorMap({ buffer, offset, dims, strides, box }: KTensorMap, kernel: KernelFunction): TensorMapCode {
  const bytes = scalarBits[buffer.scalar] / 8;
  return {
    binding: kernel.params.filter((param) => param.kind === 'buffer').indexOf(buffer),
    offset: offset * bytes,
    elementBytes: bytes,
    dims,
    strides: strides.map((stride) => stride * bytes),
    box,
  };
}

function renderEntry(module: Module, entry: string): string {
  const { kernel } = module;
  let [buffers, scalars] = [0, 0];
  for (const param of kernel.params) param.kind === 'buffer' ? buffers++ : scalars++;
  const params = [
    ...Array.from({ length: buffers }, (_, i) => `.param .u64 b${i}`),
    ...Array.from({ length: scalars }, (_, i) => `.param .u32 s${i}`),
    ...kernel.maps.map((map) => `.param .align 64 .b8 ${mapParameter(kernel, map)}[128]`),
  ];
  const f = new FunctionText();
  const renderer = new BodyRenderer(module, f);
  renderer.block(kernel.body);
  f.line('ret;');
  return [
    `.visible .entry ${entry}(${params.join(', ')})`,
    `.reqntid ${kernel.workgroup.join(', ')}`,
    // ptxas may then use all registers (it would spill some to fit two workgroups), and move them between warpgroups.
    ...(kernel.tiles.length > 0 ? ['.minnctapersm 1'] : []),
    '{',
    ...renderer.memory.declarations(),
    ...f.body(),
    '}',
  ].join('\n');
}

function renderFunction(module: Module, helper: HelperFunction, name: string): string {
  const f = new FunctionText();
  const renderer = new BodyRenderer(module, f);
  const names = helper.params.map((_, i) => `p${i}`);
  helper.params.forEach((param, i) => {
    renderer.define(param, loadParam(f, param.type, names[i]));
  });
  renderer.block(helper.body);
  storeParam(f, helper.result, 'result', renderer.lanes(helper.body.yields[0]));
  f.line('ret;');
  const params = helper.params.map((param, i) => paramOf(param.type, names[i]));
  return [
    `.func (${paramOf(helper.result, 'result')}) ${name}(${params.join(', ')}) // ${helper.name}`,
    '{',
    ...f.body(),
    '}',
  ].join('\n');
}
