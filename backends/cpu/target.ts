/** What a CPU can do, as data: from the facts of this machine, or from the name of an architecture level. */
import type { ByteMix, CacheLevel, Feature, Target } from '../../compiler/kernel/target.js';
import { scalarTypes } from '../../compiler/kernel/types.js';
import type { DeviceInfo } from '../backend.js';

type Arch = 'x86-64-v4' | 'x86-64-v3' | 'x86-64-v2' | 'aarch64' | 'generic';

interface VectorUnit {
  /** f32 lanes of a register. */
  readonly lanes: Target['vectorLanes'];
  readonly registers: number;
  readonly fma: boolean;
  /** f32 multiply-adds that a core starts in a cycle, in registers. */
  readonly issue: number;
}

/** Features of processors with an instruction for four products of bytes, and which bytes it takes. */
const byteDots: readonly (readonly [feature: string, mixes: readonly ByteMix[]])[] = [
  ['avx512vnni', ['i8·u8']],
  ['avxvnni', ['i8·u8']],
  ['dotprod', ['i8·i8', 'u8·u8']],
  ['i8mm', ['i8·u8']],
];

const units: Readonly<Record<Arch, VectorUnit>> = {
  'x86-64-v4': { lanes: 16, registers: 32, fma: true, issue: 2 },
  'x86-64-v3': { lanes: 8, registers: 16, fma: true, issue: 2 },
  'x86-64-v2': { lanes: 4, registers: 16, fma: false, issue: 1 },
  aarch64: { lanes: 4, registers: 32, fma: true, issue: 2 },
  generic: { lanes: 4, registers: 16, fma: false, issue: 1 },
};

const MAX_COUNT = 2 ** 31 - 1;
const SCRATCH_BYTES = 4 << 20;
/** For rates only: what server and desktop cores reach under load. */
const GIGAHERTZ = 3.5;

interface Machine {
  readonly cores: number;
  readonly memoryBytes: number;
  readonly l1dBytes: number;
  readonly l2Bytes: number;
  readonly l3Bytes: number;
}

/** Where nothing is known of the machine: a small laptop. */
const unknownMachine: Machine = {
  cores: 4,
  memoryBytes: 8 * 2 ** 30,
  l1dBytes: 32 * 1024,
  l2Bytes: 512 * 1024,
  l3Bytes: 4 * 2 ** 20,
};

/** The target of a CPU as its driver found it. Features and limits are those of `cpuDeviceInfo`. */
export function describe(info: DeviceInfo): Target {
  const known = (name: keyof Machine) => info.limits[name] || unknownMachine[name];
  const mixes = byteDots.filter(([feature]) => info.features.includes(feature)).flatMap(([, some]) => some);
  return makeTarget(
    archOf(info.features),
    {
      cores: known('cores'),
      memoryBytes: info.memoryBytes || unknownMachine.memoryBytes,
      l1dBytes: known('l1dBytes'),
      l2Bytes: known('l2Bytes'),
      l3Bytes: info.limits.l3Bytes ?? 0,
    },
    mixes,
  );
}

const standardArch: Arch = globalThis.process?.arch === 'arm64' ? 'aarch64' : 'x86-64-v3';

/** The target of a CPU that need not be here. */
export function targetOf(arch: string = standardArch): Target | undefined {
  return Object.hasOwn(units, arch) ? makeTarget(arch as Arch, unknownMachine) : undefined;
}

function archOf(features: readonly string[]): Arch {
  const has = (...names: string[]) => names.every((name) => features.includes(name));
  if (has('avx512f', 'avx512bw', 'avx512dq', 'avx512vl')) return 'x86-64-v4';
  if (has('avx2', 'fma')) return 'x86-64-v3';
  if (has('sse4.2')) return 'x86-64-v2';
  if (has('neon')) return 'aarch64';
  return 'generic';
}

function makeTarget(arch: Arch, machine: Machine, mixes: readonly ByteMix[] = []): Target {
  const unit = units[arch];
  const features = new Set<Feature>(['vectors', 'timestamps']);
  if (unit.fma) features.add('fma');
  const caches: CacheLevel[] = [
    { bytes: machine.l1dBytes, shared: false },
    { bytes: machine.l2Bytes, shared: false },
  ];
  if (machine.l3Bytes > 0) caches.push({ bytes: machine.l3Bytes, shared: true });
  const every = new Set(scalarTypes);
  return {
    backend: 'cpu',
    arch,
    style: 'cpu',
    limits: {
      workgroupInvocations: 1,
      workgroupSize: [1, 1, 1],
      workgroupCount: [MAX_COUNT, MAX_COUNT, MAX_COUNT],
      sharedBytes: SCRATCH_BYTES,
      storageBuffers: 64,
      storageBindingBytes: machine.memoryBytes,
      bufferBytes: machine.memoryBytes,
      storageAlignment: 64,
      scalarBytes: 4096,
    },
    features,
    arithmetic: every,
    storage: every,
    vectorLanes: unit.lanes,
    vectorRegisters: unit.registers,
    ...(mixes.length === 0 ? {} : { byteDots: new Set(mixes) }),
    subgroup: { min: 1, max: 1 },
    caches,
    parallelism: machine.cores,
    rates: {
      copyGBs: 10 + 2.5 * machine.cores,
      gflops: machine.cores * unit.lanes * unit.issue * 2 * GIGAHERTZ,
      dispatchMicroseconds: machine.cores > 1 ? 3 : 0.3,
    },
  };
}
