/** Suites of single kernels: each case on our device and on every peer that has such work, in turns. */
import { note } from '../../cli/output.js';
import { bytesOf } from '../../compiler/dtype.js';
import { exportOnnx } from '../../compiler/frontends/onnx/index.js';
import { sizeOf } from '../../compiler/tensor.js';
import { compile } from '../../runtime/model.js';
import { Session } from '../../runtime/session.js';
import type { Tensor } from '../../runtime/tensor.js';
import type { Case, Work } from '../cases/types.js';
import { type Context, casesOf } from '../context.js';
import type { KernelSubject } from '../peers/types.js';
import { type BenchDType, randomInput } from '../random.js';
import { firstLine, measurementOf, type PeerResult, peerResult, type Row, skipped } from '../record.js';
import { leastTime } from '../roof.js';
import { boundSubject, type Feeds, hostSubject, inFlight } from '../subject.js';
import { timeSubjects } from '../timing.js';

export async function benchCases(context: Context, cases: readonly Case[]): Promise<Row[]> {
  const rows: Row[] = [];
  for (const one of casesOf(context, cases)) {
    try {
      rows.push(await benchCase(context, one));
    } catch (error) {
      rows.push({ name: one.name, error: firstLine(error) });
    }
    note(`  ${describeRow(rows[rows.length - 1])}`);
  }
  for (const peer of context.peers) await peer.close();
  return rows;
}

export function describeRow(row: Row): string {
  if ('error' in row) return `${row.name}: ${row.error}`;
  const ratios = row.peers.map((peer) =>
    'ratio' in peer ? `${peer.ratio.toFixed(2)}× ${peer.name}` : `${peer.name} skipped`,
  );
  return [row.name, ...ratios, ...(row.roof ? [`${row.roof.percent.toFixed(0)} % of the roof`] : [])].join(', ');
}

async function benchCase(context: Context, one: Case): Promise<Row> {
  const graph = one.graph();
  const session = await Session.create(await compile(graph), { device: context.handle });
  try {
    const inputs = session.inputs.map(({ name, dtype, shape }) => ({
      name,
      dtype: dtype as BenchDType,
      shape: shape.map(Number),
    }));
    const setBytes = inputs.reduce((sum, { dtype, shape }) => sum + bytesOf(dtype, sizeOf(shape)), 0);
    const feeds: Feeds[] = Array.from({ length: one.cold ? setsBeyondCaches(context, setBytes) : 1 }, (_, set) =>
      Object.fromEntries(
        inputs.map(({ name, dtype, shape }, i) => [name, randomInput(dtype, shape, 1 + 101 * set + i)]),
      ),
    );
    return await benchSession(context, one, session, feeds, () => exportOnnx(graph));
  } finally {
    await session.close();
  }
}

/** A session and the peers that have such work, in turns. Sets of inputs are taken in turn too. */
export async function benchSession(
  { peers, scale, schedule, roof }: Context,
  one: Work,
  session: Session,
  feeds: readonly Feeds[],
  onnx: () => Uint8Array,
): Promise<Row> {
  const opened: KernelSubject[] = [];
  try {
    const results = await session.run(feeds[0]);
    const output = results[session.outputNames[0]];
    const refused: PeerResult[] = [];
    for (const peer of peers.filter((candidate) => candidate.takes(one))) {
      try {
        const subject = await peer.open(one, { onnx, feeds });
        opened.push(subject);
        await agree(subject, session.outputNames[0], output);
      } catch (error) {
        const failed = opened.findIndex(({ name }) => name === peer.name);
        if (failed >= 0) await opened.splice(failed, 1)[0].release();
        refused.push(skipped(peer.name, error));
      }
    }
    const ours = scale.gpu ? await boundSubject(session, feeds, inFlight) : hostSubject(session, feeds);
    const { plan } = session.report().specialisations[0];
    const moved = [...Object.values(feeds[0]), ...Object.values(results)];
    const bytes = moved.reduce((sum, { dtype, size }) => sum + bytesOf(dtype, size), plan.weightsBytes);
    const work = { flops: plan.flops, bytes };
    const least = leastTime(roof.rates, work, one.spec.dtype);
    const known = least.limit === 'memory' || one.spec.dtype in roof.rates.gflops;
    const most = known ? roof.subject?.(least.limit, work) : undefined;
    const timings = await timeSubjects([ours, ...opened, ...(most ? [most] : [])], schedule);
    const [mine, ...others] = timings.map(measurementOf);
    const theirs = others.slice(0, opened.length);
    const measured = others.at(opened.length);
    return {
      name: one.name,
      unit: 'ms',
      ours: mine,
      peers: [...opened.map(({ name, version }, i) => peerResult(name, version, theirs[i], mine)), ...refused],
      work,
      roof: {
        percent: (100 * (measured?.median ?? least.ms)) / mine.median,
        limit: least.limit,
        ...(measured && { measured }),
      },
      facts: {
        kernels: plan.kernels,
        dispatches: plan.dispatches,
        bytesMoved: plan.bytesMoved,
        arenaBytes: plan.arenaBytes,
      },
    };
  } finally {
    for (const peer of opened) await peer.release();
  }
}

/** So many sets of inputs that none is still in a cache when its turn comes: three times the last level. */
function setsBeyondCaches({ handle: { device } }: Context, bytes: number): number {
  const last = Math.max(...device.target.caches.map((cache) => cache.bytes), 0);
  return Math.min(64, 1 + Math.ceil((3 * last) / Math.max(1, bytes)));
}

/** Before anything is timed: the same answer, within what the types allow. Peers that take no tensors are not asked. */
async function agree(subject: KernelSubject, name: string, ours: Tensor): Promise<void> {
  const answer = (await subject.run()) as Answer | readonly number[];
  if (isTimes(answer) || ours.dtype === 'f16' || ours.dtype === 'bf16') return;
  const theirs = answer[name]?.data;
  if (theirs === undefined) throw new Error(`it gave no output ${name}`);
  const own = ours.data as ArrayLike<number | bigint>;
  let [error, norm] = [0, 0];
  for (let i = 0; i < own.length; i++) {
    error += (Number(own[i]) - Number(theirs[i])) ** 2;
    norm += Number(theirs[i]) ** 2;
  }
  // NaN is no agreement.
  if (!(Math.sqrt(error) <= 1e-3 * Math.sqrt(norm) || error === 0)) {
    throw new Error(`results differ by ${Math.sqrt(error / norm).toExponential(1)} of their norm`);
  }
}

type Answer = Readonly<Record<string, { readonly data?: ArrayLike<number | bigint> }>>;

const isTimes = (answer: Answer | readonly number[]): answer is readonly number[] => Array.isArray(answer);
