/** What a run costs beyond its arithmetic: one small op, small models, and hundreds of kernels in a row. */

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { feedsOf } from '../../cli/feeds.js';
import type { Subject } from '../../cli/measure.js';
import { note } from '../../cli/output.js';
import { openPeer, type Peer } from '../../cli/peers.js';
import { ModelBuilder } from '../../compiler/builder/index.js';
import { TuttiError } from '../../compiler/error.js';
import { exportOnnx, importOnnx } from '../../compiler/frontends/onnx/index.js';
import type { Graph } from '../../compiler/graph/types.js';
import { compile } from '../../runtime/model.js';
import { Session } from '../../runtime/session.js';
import { type Context, isWanted } from '../context.js';
import { modelsFolder } from '../models.js';
import { normal } from '../random.js';
import { firstLine, measurementOf, type PeerResult, peerResult, type Row, skipped } from '../record.js';
import { boundSubject, type Feeds, hostSubject } from '../subject.js';
import { timeSubjects } from '../timing.js';
import { describeRow } from './kernels.js';

interface Work {
  readonly name: string;
  readonly onnx: () => Uint8Array;
  readonly folder?: string;
}

const oneOp = (): Graph => {
  const g = new ModelBuilder('one-op');
  g.output('y', g.add(g.input('x', 'f32', [4]), 1));
  return g.build();
};

/** Products with a reduction between them: nothing here fuses into fewer kernels than there are products. */
const chain = (length: number): Graph => {
  const g = new ModelBuilder('chain');
  const weights = g.constant(normal(16 * 16, 5, 0.25), [16, 16]);
  let x = g.input('x', 'f32', [16, 16]);
  for (let i = 0; i < length; i++) x = g.matmul(x, weights);
  g.output('y', x);
  return g.build();
};

function works(quick: boolean): readonly Work[] {
  const small = ['mnist-cnn8', 'silero-vad-v5', 'dtln-1', 'dtln-2'].filter((name) =>
    existsSync(join(modelsFolder, name, 'model.onnx')),
  );
  return [
    { name: 'one op on 4 numbers', onnx: () => exportOnnx(oneOp()) },
    ...(quick ? [50] : [50, 500]).map((length) => ({
      name: `${length} products of 16×16`,
      onnx: () => exportOnnx(chain(length)),
    })),
    ...small.slice(0, quick ? 1 : small.length).map((name) => ({
      name,
      onnx: () => readFileSync(join(modelsFolder, name, 'model.onnx')),
      folder: join(modelsFolder, name),
    })),
  ];
}

/** Each way to run is a row: from the host and bound to the device's memory, with promises and, where it can be, at once. */
export async function runDispatch(context: Context): Promise<Row[]> {
  const rows: Row[] = [];
  for (const work of works(context.scale.quick).filter(({ name }) => isWanted(context, name))) {
    try {
      rows.push(...(await benchWork(context, work)));
    } catch (error) {
      rows.push({ name: work.name, error: firstLine(error) });
    }
    for (const row of rows.slice(-4)) if (row.name.startsWith(work.name)) note(`  ${describeRow(row)}`);
  }
  return rows;
}

async function benchWork({ handle, peers, schedule }: Context, { name, onnx, folder }: Work): Promise<Row[]> {
  const bytes = onnx();
  const session = await Session.create(await compile(importOnnx(bytes)), { device: handle });
  const peerName = peers.find((candidate) => candidate.name.startsWith('onnxruntime'))?.name;
  let peer: Peer | undefined;
  let refusal: PeerResult | undefined;
  try {
    const feeds: Feeds = await feedsOf(session.model, [], folder);
    await session.run(feeds);
    if (peerName !== undefined) {
      try {
        peer = await openPeer(peerName, bytes, feeds);
        await peer.run();
      } catch (error) {
        refusal = skipped(peerName, error);
      }
    }
    const ways: readonly (readonly [string, Subject])[] = [
      ['run', hostSubject(session, [feeds])],
      ['bound', await boundSubject(session, [feeds], 1)],
      ...(await synchronous(session, feeds)),
    ];
    const timings = await timeSubjects([...ways.map(([, subject]) => subject), ...(peer ? [peer] : [])], schedule);
    const { plan } = session.report().specialisations.at(-1) ?? {};
    return ways.map(([way], i) => {
      const ours = measurementOf(timings[i]);
      const theirs = peer && peerResult(peer.name, peer.version, measurementOf(timings[ways.length]), ours);
      return {
        name: `${name}, ${way}`,
        unit: 'ms',
        ours,
        peers: [theirs ?? refusal].flatMap((one) => one ?? []),
        ...(plan === undefined ? {} : { facts: { kernels: plan.kernels, dispatches: plan.dispatches } }),
      };
    });
  } finally {
    await peer?.release();
    await session.close();
  }
}

/** The same ways in the calling thread; none where the device does not run there. */
async function synchronous(session: Session, feeds: Feeds): Promise<(readonly [string, Subject])[]> {
  try {
    session.runSync(feeds);
  } catch (error) {
    if (error instanceof TuttiError && error.code === 'E_UNSUPPORTED') return [];
    throw error;
  }
  const binding = await session.bind({
    inputs: feeds,
    outputs: Object.fromEntries(session.outputNames.map((name) => [name, 'device'])),
  });
  const bound = (): void => {
    for (const tensor of Object.values(binding.runSync())) tensor.dispose();
  };
  return [
    ['runSync', { name: 'tutti', run: async () => session.runSync(feeds) }],
    ['bound, runSync', { name: 'tutti', run: async () => bound() }],
  ];
}
