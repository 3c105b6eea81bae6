/** Profiles in the Trace Event Format, which chrome://tracing and Perfetto read. Times are microseconds. */
import type { RunProfile } from '../runtime/api.js';
import { writeOutput } from './files.js';

export interface TraceDevice {
  readonly device: string;
  /** Milliseconds by stage of compiling. */
  readonly times: Readonly<Record<string, number>>;
  readonly shapes: Readonly<Record<string, readonly number[]>>;
  readonly profile?: RunProfile;
}

interface TraceEvent {
  readonly name: string;
  readonly cat: string;
  readonly ph: 'X' | 'M';
  readonly pid: number;
  readonly tid: number;
  readonly ts?: number;
  readonly dur?: number;
  readonly args?: Readonly<Record<string, unknown>>;
}

const stages = ['plan', 'render', 'load', 'upload', 'record'];

/** One process a device: its compile stages on one track, its dispatches on another, one after the other. */
export function writeTrace(path: string, devices: readonly TraceDevice[]): void {
  const events = devices.flatMap(({ device, times, shapes, profile }, i): TraceEvent[] => {
    const pid = i + 1;
    const meta = (name: string, tid: number, value: string): TraceEvent => ({
      name,
      cat: '__metadata',
      ph: 'M',
      pid,
      tid,
      args: { name: value },
    });
    let at = 0;
    const compiled = stages.flatMap((stage): TraceEvent[] => {
      const dur = (times[stage] ?? 0) * 1000;
      const event: TraceEvent = { name: stage, cat: 'compile', ph: 'X', pid, tid: 1, ts: at, dur, args: { shapes } };
      at += dur;
      return times[stage] === undefined ? [] : [event];
    });
    let now = at;
    const ran = (profile?.dispatches ?? []).map(({ kernel, sources, microseconds }): TraceEvent => {
      const dur = microseconds ?? 0;
      const args = { sources, ...(microseconds === undefined ? { timed: false } : {}) };
      const event: TraceEvent = { name: kernel, cat: 'dispatch', ph: 'X', pid, tid: 2, ts: now, dur, args };
      now += dur;
      return event;
    });
    return [
      meta('process_name', 0, device),
      meta('thread_name', 1, 'compile'),
      meta('thread_name', 2, 'kernels'),
      ...compiled,
      ...ran,
    ];
  });
  writeOutput(path, `${JSON.stringify({ traceEvents: events, displayTimeUnit: 'ms' })}\n`);
}
