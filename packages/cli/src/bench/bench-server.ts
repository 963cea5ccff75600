/** Measures a server in a process of its own: starts, first steps, cases over HTTP, round trips. */
import { ServiceClient } from '@anneal/client';
import type { BenchCase, Run } from './bench-case.ts';
import type { CaseResult } from './result.ts';
import { type BenchOptions, type CasesResult, isWanted, runSubjectCases, subjectCases } from './run-bench.ts';
import { summary } from './run-case.ts';
import { firstSteps, OVER_HTTP, ROUND_TRIP_CASES, roundTrips, startCases } from './server-cases.ts';
import { type SpawnedServer, spawnServer } from './spawn-server.ts';
import { openUrlSubject } from './url-subject.ts';

export interface ServedFolder {
  folder: string;
  vocabSize: number;
  precision: string;
}

const NAME = 'bench';
const STARTS = 3;

const overHttp: BenchCase[] = subjectCases
  .filter(({ id }) => OVER_HTTP.some((start) => id.startsWith(start)))
  .map((bench) => ({ ...bench, id: `server/${bench.id}`, title: `${bench.title}, over HTTP` }));

/** Nothing is started where no case of the server is asked for. */
export async function benchServer(served: ServedFolder, options: BenchOptions): Promise<CasesResult> {
  const wanted = ({ id }: { id: string }) => isWanted({ id }, options);
  const wantsStart = Object.values(startCases).some(wanted);
  const wantsRoundTrips = ROUND_TRIP_CASES.some(wanted);
  if (!wantsStart && !wantsRoundTrips && !overHttp.some(wanted)) return { cases: [], skipped: [] };
  const { server, cases } = await start(served, options, wantsStart);
  try {
    const subject = await openUrlSubject({ ...server, baseModel: NAME, vocabSize: served.vocabSize });
    const found = await runSubjectCases(subject, overHttp, options).finally(() => subject.close());
    const trips = wantsRoundTrips ? await measureRoundTrips(server, options) : [];
    return { ...found, cases: [...cases, ...found.cases, ...trips].filter(wanted) };
  } finally {
    await server.stop();
  }
}

/** Starts a server once, or a few times where that is measured, and leaves the last one running. */
async function start(
  { folder, precision, vocabSize }: ServedFolder,
  options: BenchOptions,
  measured: boolean,
): Promise<{ server: SpawnedServer; cases: CaseResult[] }> {
  const runs: Record<keyof typeof startCases, Run[]> = { start: [], firstStep: [], nextShape: [] };
  let left = measured && !options.quick ? STARTS : 1;
  options.say(`server/start: ${startCases.start.title}`);
  for (;;) {
    const server = await spawnServer(folder, NAME, precision);
    if (!measured) return { server, cases: [] };
    runs.start.push({ seconds: server.startSeconds, tokens: 0 });
    const subject = await openUrlSubject({ ...server, baseModel: NAME, vocabSize });
    const steps = await firstSteps(subject).finally(() => subject.close());
    runs.firstStep.push(steps.firstStep);
    runs.nextShape.push(steps.nextShape);
    if (--left === 0) {
      const names = Object.keys(startCases) as (keyof typeof startCases)[];
      return {
        server,
        cases: names.map((name) => ({ ...summary(startCases[name], runs[name]), details: {} })),
      };
    }
    await server.stop();
  }
}

async function measureRoundTrips(
  { url, apiKey }: SpawnedServer,
  options: BenchOptions,
): Promise<CaseResult[]> {
  for (const { id, title } of ROUND_TRIP_CASES) options.say(`${id}: ${title}`);
  const service = new ServiceClient({ baseUrl: url, apiKey, displayName: 'bench round trips' });
  try {
    return await roundTrips({ url, apiKey }, service, NAME);
  } finally {
    await service.close('success');
  }
}
