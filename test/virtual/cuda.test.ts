// The virtual CUDA device as a driver: modules and their errors, memory, streams and events in order, graphs, faults in
// words. Instruction semantics are in cuda-isa.test.ts, matrix and asynchronous instructions in cuda-matrix.test.ts.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  buildVirtualCuda,
  fromHex,
  PtxFolder,
  ptxas,
  toHex,
  virtualCuda,
  virtualCudaMissing,
  virtualCudaOk,
} from '../support/virtual_cuda.js';

const folder = new PtxFolder();
beforeAll(() => buildVirtualCuda(), 900_000);
afterAll(() => folder.remove());

const module75 = (body: string) => `.version 7.0\n.target sm_75\n.address_size 64\n${body}`;

/** y[i] = y[i] * m + a over n elements. */
const affine = `
.visible .entry affine(.param .u64 y, .param .u32 m, .param .u32 a, .param .u32 n) {
  .reg .pred %p; .reg .b32 %r<8>; .reg .b64 %rd<4>;
  ld.param.u64 %rd0, [y]; ld.param.u32 %r0, [m]; ld.param.u32 %r1, [a]; ld.param.u32 %r2, [n];
  mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x; mad.lo.u32 %r3, %r3, %r4, %r5;
  setp.ge.u32 %p, %r3, %r2; @%p bra END;
  mul.wide.u32 %rd1, %r3, 4; add.u64 %rd0, %rd0, %rd1;
  ld.global.u32 %r6, [%rd0]; mad.lo.u32 %r6, %r6, %r0, %r1; st.global.u32 [%rd0], %r6;
END: ret;
}`;

describe.skipIf(virtualCudaMissing !== undefined)('modules', () => {
  it('is a device of its own name and of the compute capability asked for', () => {
    expect(virtualCudaOk(['device'])).toEqual(['Tutti Virtual CUDA 9.0']);
    expect(virtualCudaOk(['device'], { TUTTI_VIRTUAL_CUDA_SM: '7.5' })).toEqual(['Tutti Virtual CUDA 7.5']);
  });

  it('offers the entry points of the driver API by name', () => {
    const names =
      'cuInit cuDriverGetVersion cuGetProcAddress cuDeviceGetCount cuDeviceGet cuDeviceGetName cuDeviceGetUuid cuDeviceGetAttribute cuDeviceTotalMem cuDeviceGetPCIBusId cuDevicePrimaryCtxRetain cuDevicePrimaryCtxRelease cuCtxSetCurrent cuCtxGetCurrent cuCtxPushCurrent cuCtxPopCurrent cuCtxSynchronize cuModuleLoadDataEx cuModuleLoadData cuModuleUnload cuModuleGetFunction cuFuncGetAttribute cuFuncSetAttribute cuMemAlloc cuMemFree cuMemGetInfo cuMemAllocHost cuMemFreeHost cuMemcpyHtoD cuMemcpyDtoH cuMemcpyDtoD cuMemcpyHtoDAsync cuMemcpyDtoHAsync cuMemcpyDtoDAsync cuMemsetD8 cuMemsetD32 cuMemsetD8Async cuMemsetD32Async cuStreamCreate cuStreamDestroy cuStreamSynchronize cuStreamQuery cuStreamWaitEvent cuStreamBeginCapture cuStreamEndCapture cuLaunchHostFunc cuEventCreate cuEventRecord cuEventQuery cuEventSynchronize cuEventElapsedTime cuEventDestroy cuLaunchKernel cuLaunchKernelEx cuGraphCreate cuGraphInstantiate cuGraphLaunch cuGraphDestroy cuGraphExecDestroy cuGraphAddKernelNode cuGraphAddMemcpyNode cuGraphAddMemsetNode cuGraphExecKernelNodeSetParams cuGraphGetNodes cuGetErrorName cuGetErrorString cuPointerGetAttribute cuTensorMapEncodeTiled';
    expect(virtualCudaOk([`procs ${names}`])).toEqual(['']);
    expect(virtualCudaOk(['procs cuNoSuchThing'])).toEqual(['cuNoSuchThing']);
  });

  it('refuses wrong modules with the line and the reason', () => {
    const entry = (line: string) =>
      module75(
        `.visible .entry f() {\n.reg .b32 %r<4>; .reg .b64 %rd<2>; .reg .f32 %f<2>; .reg .pred %p;\n${line}\nret;\n}`,
      );
    const cases: [string, RegExp][] = [
      [entry('frobnicate.b32 %r0, %r1;'), /218.*line 6; error.*'frobnicate' is not known/],
      [entry('add.u32.blue %r0, %r1, %r2;'), /218.*line 6.*\.blue is not known/],
      [entry('add.u32 %r0, %rd0, %r2;'), /218.*%rd0 is \.b64, expected 32 bits/],
      [entry('add.u32 %r0, %r9, %r2;'), /218.*%r9 is not known/],
      [entry('bra NOWHERE;'), /218.*label NOWHERE is not defined/],
      [entry('cvt.u32.f32 %r0, %f0;'), /218.*needs \.rni/],
      [entry('add.u32 %r0, %r1'), /218.*expected ';'/],
      [entry('redux.sync.add.s32 %r0, %r1, 0xffffffff;'), /218.*needs \.target sm_80/],
      ['.version 7.0\n.target sm_80\n.visible .entry f() { ret; }', /218.*address_size/],
      ['.version 99.0\n.target sm_80\n.address_size 64\n', /222.*newer/],
      ['.version 8.0\n.target sm_120\n.address_size 64\n', /209.*sm_120 does not run/],
      ['.version 8.0\n.target sm_80a\n.address_size 64\n', /209.*sm_80a does not run/],
    ];
    for (const [text, expected] of cases) {
      const [answer] = virtualCuda([`module M ${folder.write(text, { assemble: false })}`]);
      expect(answer).toMatch(expected);
    }
  });

  it('initialises module variables, also with addresses of others', () => {
    const text = module75(`
.global .align 4 .u32 table[4] = {1, 2, 3, 0xfffffffe};
.const .align 4 .f32 half = 0.5;
.global .align 8 .u64 where[2] = {table+8, 0};
.visible .entry f(.param .u64 out) {
  .reg .b64 %rd<4>; .reg .b32 %r<2>; .reg .f32 %f0;
  ld.param.u64 %rd0, [out]; ld.global.u64 %rd1, [where]; ld.global.u32 %r0, [%rd1+4]; ld.const.f32 %f0, [half];
  st.global.u32 [%rd0], %r0; st.global.f32 [%rd0+4], %f0; ret;
}`);
    const answers = virtualCudaOk([
      `module M ${folder.write(text)}`,
      'alloc out 8',
      'launch M f 1 1 1 1 1 1 0 0 @out',
      'get out 0 8',
      'symbol S M table',
      'get S 4 4',
    ]);
    expect(answers[3]).toBe('feffffff0000003f');
    expect(answers[4]).toBe('16');
    expect(answers[5]).toBe('02000000');
  });

  it('runs what a compiler wrote', () => {
    expect(ptxas === undefined || ptxas.endsWith('ptxas')).toBe(true);
    const text = module75(`
	// .globl	_Z3dotPKfS0_Pf
.extern .shared .align 16 .b8 dynamic[];
.visible .entry _Z3dotPKfS0_Pf(
	.param .u64 .ptr .global .align 4 _Z3dotPKfS0_Pf_param_0,
	.param .u64 _Z3dotPKfS0_Pf_param_1,
	.param .u64 _Z3dotPKfS0_Pf_param_2
)
.maxntid 256, 1, 1
.minnctapersm 2
{
	.reg .pred 	%p<4>;
	.reg .f32 	%f<8>;
	.reg .b32 	%r<16>;
	.reg .b64 	%rd<12>;

	.loc	1 3 0
	.pragma "nounroll";
	ld.param.u64 	%rd1, [_Z3dotPKfS0_Pf_param_0];
	ld.param.u64 	%rd2, [_Z3dotPKfS0_Pf_param_1];
	ld.param.u64 	%rd3, [_Z3dotPKfS0_Pf_param_2];
	cvta.to.global.u64 	%rd4, %rd1;
	cvta.to.global.u64 	%rd5, %rd2;
	cvta.to.global.u64 	%rd6, %rd3;
	mov.u32 	%r1, %tid.x;
	mul.wide.u32 	%rd7, %r1, 4;
	add.s64 	%rd8, %rd4, %rd7;
	add.s64 	%rd9, %rd5, %rd7;
	ld.global.nc.f32 	%f1, [%rd8];
	ld.global.nc.f32 	%f2, [%rd9];
	mul.f32 	%f3, %f1, %f2;
	shl.b32 	%r2, %r1, 2;
	mov.u32 	%r3, dynamic;
	add.s32 	%r4, %r3, %r2;
	st.shared.f32 	[%r4], %f3;
	bar.sync 	0;
	mov.u32 	%r15, 128;
$L__BB0_1:
	setp.ge.u32 	%p1, %r1, %r15;
	@%p1 bra 	$L__BB0_3;
	shl.b32 	%r5, %r15, 2;
	add.s32 	%r6, %r4, %r5;
	ld.shared.f32 	%f4, [%r6];
	ld.shared.f32 	%f5, [%r4];
	add.f32 	%f6, %f4, %f5;
	st.shared.f32 	[%r4], %f6;
$L__BB0_3:
	bar.sync 	0;
	shr.u32 	%r15, %r15, 1;
	setp.ne.s32 	%p2, %r15, 0;
	@%p2 bra 	$L__BB0_1;
	setp.ne.s32 	%p3, %r1, 0;
	@%p3 bra 	$L__BB0_5;
	ld.shared.f32 	%f7, [dynamic];
	st.global.f32 	[%rd6], %f7;
$L__BB0_5:
	ret;
}`);
    const x = Array.from({ length: 256 }, (_, i) => i % 7);
    const hex = (values: readonly number[]) => Buffer.from(new Float32Array(values).buffer).toString('hex');
    const answers = virtualCudaOk([
      `module M ${folder.write(text)}`,
      'alloc x 1024',
      'alloc y 1024',
      'alloc z 4',
      `put x 0 ${hex(x)}`,
      `put y 0 ${hex(x.map((v) => v + 1))}`,
      'launch M _Z3dotPKfS0_Pf 1 1 1 256 1 1 1024 0 @x @y @z',
      'get z 0 4',
      'attribute M _Z3dotPKfS0_Pf 0',
    ]);
    expect(answers[7]).toBe(hex([x.reduce((s, v) => s + v * (v + 1), 0)]));
    expect(answers[8]).toBe('256');
  });
});

describe.skipIf(virtualCudaMissing !== undefined)('launches', () => {
  it('checks grids, blocks, shared memory and parameters', () => {
    const file = folder.write(module75(affine));
    const start = [`module M ${file}`, 'alloc y 400', 'fill y 0 4 5 100'];
    const answer = (launch: string) => virtualCuda([...start, launch]).at(-1);
    expect(answer('launch M affine 0 1 1 32 1 1 0 0 @y u32:1 u32:1 u32:4')).toMatch(/^error 1 /);
    expect(answer('launch M affine 1 1 1 1025 1 1 0 0 @y u32:1 u32:1 u32:4')).toMatch(/^error 1 /);
    expect(answer('launch M affine 1 65536 1 32 1 1 0 0 @y u32:1 u32:1 u32:4')).toMatch(/^error 1 /);
    expect(answer('launch M affine 1 1 1 32 1 1 50000 0 @y u32:1 u32:1 u32:4')).toMatch(/^error 1 /);
    expect(
      virtualCuda([
        ...start,
        'most M affine 100000',
        'launch M affine 1 1 1 32 1 1 100000 0 @y u32:1 u32:1 u32:4',
        'sync 0',
      ]).at(-1),
    ).toBe('ok');
    expect(virtualCuda([...start, 'most M affine 300000']).at(-1)).toMatch(/^error 1 /);
    expect(virtualCuda([...start, 'launch M nothing 1 1 1 1 1 1 0 0']).at(-1)).toMatch(/^error 500 /);
  });

  it('runs grids of more than 65,535 blocks on all threads', () => {
    const n = 70_000 * 32;
    const answers = virtualCudaOk([
      `module M ${folder.write(module75(affine))}`,
      `alloc y ${n * 4}`,
      `fill y 0 4 7 ${n}`,
      `launch M affine 70000 1 1 32 1 1 0 0 @y u32:3 u32:1 u32:${n - 1}`,
      'get y 0 4',
      `get y ${(n - 2) * 4} 8`,
    ]);
    expect(answers.slice(-2)).toEqual(['16000000', '1600000007000000']);
  });

  it('gives out memory up to its size and takes it back', () => {
    const env = { TUTTI_VIRTUAL_CUDA_MEMORY_MB: '64' };
    expect(
      virtualCuda(['alloc a 50000000', 'alloc b 50000000', 'free a', 'alloc b 50000000', 'free b', 'free b'], env),
    ).toEqual(['ok', expect.stringMatching(/^error 2 /), 'ok', 'ok', 'ok', expect.stringMatching(/^error 1 /)]);
  });

  it('copies and fills at odd offsets, and refuses what is out of bounds', () => {
    const answers = virtualCuda([
      'alloc a 100',
      'alloc b 100',
      'fill a 0 1 0 100',
      'fill a 3 1 171 5',
      'put a 50 0102030405',
      'copy b 7 a 1 60 0',
      'get b 7 10',
      'get b 56 6',
      'copy b 60 a 0 60 0',
      'fill a 98 1 1 5',
      'fill a 2 4 1 1',
    ]);
    expect(answers.slice(6)).toEqual([
      'ok 0000ababababab000000',
      'ok 010203040500',
      expect.stringMatching(/^error 1 /),
      expect.stringMatching(/^error 1 /),
      expect.stringMatching(/^error 1 /),
    ]);
  });
});

describe.skipIf(virtualCudaMissing !== undefined)('streams, events and graphs', () => {
  const start = () => [
    `module M ${folder.write(module75(affine))}`,
    'alloc y 256',
    'stream A 1',
    'stream B 1',
    'event E',
    'event F',
  ];
  const launch = (stream: string, m: number, a: number, buffer = '@y') =>
    `launch M affine 2 1 1 32 1 1 0 ${stream} ${buffer} u32:${m} u32:${a} u32:64`;
  const values = (answer: string | undefined) => new Set(fromHex((answer ?? '').replace(/^ok /, ''), 32));

  it('keeps the order in a stream and does not wait across streams unless told', () => {
    const answers = virtualCuda([
      ...start(),
      'sleep A 150',
      'note A a',
      'note B b',
      'sync B',
      'notes',
      'query A',
      'sync A',
      'notes',
      'query A',
    ]);
    expect(answers.slice(-5)).toEqual(['ok b', expect.stringMatching(/^error 600 /), 'ok', 'ok ba', 'ok']);
  });

  it('events order streams and measure time', () => {
    const answers = virtualCuda([
      ...start(),
      'fill y 0 4 1 64',
      'record F A',
      'sleep A 100',
      launch('A', 3, 1),
      'record E A',
      'done E',
      'await B E',
      launch('B', 10, 5),
      'sync B',
      'done E',
      'get y 0 256',
      'elapsed F E',
    ]);
    expect(answers[11]).toMatch(/^error 600 /);
    expect(answers[15]).toBe('ok');
    expect(values(answers[16])).toEqual(new Set([45n]));
    expect(Number((answers[17] ?? '').slice(3))).toBeGreaterThan(90);
  });

  it('the legacy stream waits for blocking streams and they for it', () => {
    const answers = virtualCuda([
      'stream A 0',
      'stream N 1',
      'sleep A 100',
      'note A 1',
      'note 0 2',
      'note A 3',
      'note N n',
      'sync A',
      'notes',
    ]);
    expect(answers.at(-1)).toBe('ok n123');
  });

  it('captures a stream with a fork and a join, replays and patches it', () => {
    const answers = virtualCuda([
      ...start(),
      'alloc z 256',
      'fill y 0 4 1 64',
      'fill z 0 4 100 64',
      'capture A',
      launch('A', 2, 0),
      'record E A',
      'await B E',
      launch('B', 1, 7, '@z'),
      launch('A', 1, 3),
      'record F B',
      'await A F',
      'copy z 0 y 0 8 A',
      'endcapture A G',
      'nodes G',
      'get y 0 4',
      'instantiate G X',
      'replay X A',
      'replay X A',
      'sync A',
      'get y 0 256',
      'get z 0 8',
      'get z 8 8',
      'patch X G 0 M affine 2 1 1 32 1 1 0 @y u32:0 u32:50 u32:64',
      'replay X A',
      'sync A',
      'get y 0 4',
    ]);
    expect(answers.filter((a) => a.startsWith('error'))).toEqual([]);
    expect(answers.at(-13)).toBe('ok 4');
    expect(answers.at(-12)).toBe('ok 01000000'); // nothing ran while capturing
    expect(values(answers.at(-7))).toEqual(new Set([13n])); // ((1 * 2) + 3) * 2 + 3
    expect(answers.at(-6)).toBe('ok 0d0000000d000000');
    expect(answers.at(-5)).toBe('ok 7200000072000000'); // 100 + 7 + 7
    expect(answers.at(-1)).toBe('ok 35000000');
  });

  it('refuses captures that are not joined, and waiting while capturing', () => {
    const unjoined = virtualCuda([
      ...start(),
      'capture A',
      'record E A',
      'await B E',
      launch('B', 1, 1),
      'endcapture A G',
    ]);
    expect(unjoined.at(-1)).toMatch(/^error 904 /);
    const waited = virtualCuda([...start(), 'capture A', 'sync A', 'endcapture A G']);
    expect(waited.slice(-2)).toEqual([expect.stringMatching(/^error 900 /), expect.stringMatching(/^error 901 /)]);
  });

  it('takes a thousand submissions in flight', () => {
    const many = Array.from({ length: 1000 }, () => launch('A', 1, 1));
    const answers = virtualCuda([...start(), 'fill y 0 4 0 64', ...many, 'sync A', 'get y 0 256']);
    expect(values(answers.at(-1))).toEqual(new Set([1000n]));
  });

  it('copies from pinned memory when they run, not when they are asked for', () => {
    const answers = virtualCuda([
      'pinned h 16',
      'alloc d 16',
      'stream A 1',
      'put h 0 00000000',
      'sleep A 100',
      'copy d 0 h 0 16 A',
      'put h 0 01020304',
      'sync A',
      'get d 0 4',
    ]);
    expect(answers.at(-1)).toBe('ok 01020304');
  });
});

describe.skipIf(virtualCudaMissing !== undefined)('faults', () => {
  /** A kernel of the given body over one buffer %rd0 and thread number %r0: what the device says. */
  const faultOf = (
    body: string,
    options: { threads?: number; declare?: string; target?: string; version?: string } = {},
  ) => {
    const text = `.version ${options.version ?? '7.0'}\n.target ${options.target ?? 'sm_80'}\n.address_size 64\n.visible .entry f(.param .u64 x) {
.reg .pred %p<4>; .reg .b32 %r<8>; .reg .b64 %rd<8>; .reg .f32 %f<8>; ${options.declare ?? ''}
ld.param.u64 %rd0, [x]; mov.u32 %r0, %tid.x;
${body}
ret;
}`;
    const answers = virtualCuda([
      `module M ${folder.write(text)}`,
      'alloc x 1024',
      'fill x 0 4 0 256',
      `launch M f 1 1 1 ${options.threads ?? 64} 1 1 0 0 @x`,
      'sync 0',
      'fault',
      'alloc more 16',
      'context',
      'alloc again 16',
    ]);
    const [code] = /error (\d+)/.exec(answers[4] ?? '') ?? [];
    // The context stays broken, as on CUDA, until it is reset.
    if (code) expect(answers[6]).toMatch(/^error/);
    expect(answers[8]).toBe('ok');
    return `${answers[4]} ${answers[5]}`;
  };

  it('out of bounds: which address, how far, which instruction and thread', () => {
    expect(faultOf('mul.wide.u32 %rd1, %r0, 32; add.u64 %rd1, %rd0, %rd1;\nst.global.u32 [%rd1+4], %r0;')).toMatch(
      /error 700 .*writes 4 bytes at .*: 4 bytes behind the end of the 1024 bytes.*line 8: `st\.global\.u32 \[%rd1\+4\], %r0;`, block \(0,0,0\) thread \(32,0,0\)/,
    );
    expect(faultOf('ld.global.u32 %r1, [%rd0+-4];')).toMatch(/error 700 .*4 bytes before the 1024 bytes/);
    expect(faultOf('mov.u64 %rd1, 0; ld.global.u32 %r1, [%rd1];')).toMatch(/error 700 .*null pointer/);
    expect(
      faultOf(
        'mul.wide.u32 %rd1, %r0, 1024; add.u64 %rd1, %rd0, %rd1; setp.eq.u32 %p0, %r0, 0; @%p0 st.global.u32 [%rd1], %r0;',
      ),
    ).toMatch(/^ok/);
    expect(
      faultOf('mov.u32 %r1, s; st.shared.u32 [%r1+256], %r0;', { declare: '.shared .align 4 .b8 s[256];' }),
    ).toMatch(/error 700 .*shared address/);
  });
  it('misaligned accesses', () => {
    expect(faultOf('ld.global.v2.u32 {%r1, %r2}, [%rd0+4];')).toMatch(/error 716 .*reads 8 bytes/);
    expect(faultOf('ld.global.u32 %r1, [%rd0+2];')).toMatch(/error 716 .*reads 4 bytes/);
  });
  it('shared memory that was never written', () => {
    const body =
      'shl.b32 %r1, %r0, 2; mov.u32 %r2, s; add.u32 %r2, %r2, %r1; setp.lt.u32 %p0, %r0, 40; @%p0 st.shared.u32 [%r2], %r0; bar.sync 0; ld.shared.u32 %r3, [%r2];';
    expect(faultOf(body, { declare: '.shared .align 4 .b32 s[64];' })).toMatch(
      /error 719 .*uninitialised shared memory.*thread \(40,0,0\)/,
    );
  });
  it('barriers that not all threads of a warp reach', () => {
    expect(
      faultOf('setp.lt.u32 %p0, %r0, 16; @!%p0 bra L; bar.sync 0; L: add.u32 %r1, %r0, 1; st.global.u32 [%rd0], %r1;'),
    ).toMatch(/error 719 .*barrier divergence.*lanes 0x0000ffff wait at line.*bar\.sync 0/);
    expect(faultOf('setp.lt.u32 %p0, %r0, 32; @!%p0 bra L; bar.sync 1, 64; bra E; L: bar.sync 2, 64; E:')).toMatch(
      /error 719 .*barrier deadlock/,
    );
    // Threads that have ended hold up nobody.
    expect(faultOf('setp.ge.u32 %p0, %r0, 40; @%p0 bra E; bar.sync 0; E: ret;')).toMatch(/^ok/);
  });
  it('a shared byte that is read before its cp.async has been waited for', () => {
    const copy =
      'mov.u32 %r1, s; shl.b32 %r2, %r0, 4; add.u32 %r1, %r1, %r2; cvt.u64.u32 %rd2, %r2; add.u64 %rd1, %rd0, %rd2; cp.async.cg.shared.global [%r1], [%rd1], 16; cp.async.commit_group;';
    const options = { declare: '.shared .align 16 .b8 s[1024];' };
    expect(faultOf(`${copy} ld.shared.u32 %r3, [%r1];`, options)).toMatch(
      /error 719 .*race: reads the shared byte .* asynchronous copy/,
    );
    expect(faultOf(`${copy} cp.async.wait_group 1; ld.shared.u32 %r3, [%r1];`, options)).toMatch(/error 719 .*race/);
    expect(faultOf(`${copy} cp.async.wait_group 0; ld.shared.u32 %r3, [%r1];`, options)).toMatch(/^ok/);
  });
  it('trap, and lanes that are missing from a shuffle', () => {
    expect(faultOf('setp.eq.u32 %p0, %r0, 33; @%p0 trap;')).toMatch(/error 719 .*trap.*thread \(33,0,0\)/);
    expect(
      faultOf(
        'setp.lt.u32 %p0, %r0, 16; @%p0 shfl.sync.idx.b32 %r1, %r0, 0, 31, 0xffffffff; st.global.u32 [%rd0], %r1;',
      ),
    ).toMatch(/error 719 .*member mask 0xffffffff names lanes 0xffff0000/);
  });
  it('a loop without end is stopped', () => {
    const text = module75('.visible .entry f() { L: bra L; }');
    const answers = virtualCuda([`module M ${folder.write(text)}`, 'launch M f 1 1 1 32 1 1 0 0', 'sync 0'], {
      TUTTI_VIRTUAL_CUDA_TIMEOUT: '0.3',
    });
    expect(answers.at(-1)).toMatch(/^error 702 /);
  });
  it('what a device pointer is not: a host pointer', () => {
    const [, address] = virtualCudaOk(['alloc x 16', 'address x']);
    expect(BigInt(address ?? 0) >> 47n).not.toBe(0n);
    expect(toHex([1], 32)).toBe('01000000');
  });
});
