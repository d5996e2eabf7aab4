/** Values that a well-meaning client sends, by the name of the field, so that an input gets beyond the first check. */
import type { MessageInitShape } from '@bufbuild/protobuf';
import type { PipelineSchema } from '../../gen/baton/v1/pipeline_pb.js';
import type { Prng } from '../support/log_prng.js';
import { withOneFlip } from './values.js';
import type { Vocabulary } from './vocabulary.js';

/** What belongs together in one request, such as a run and the token that holds it. */
export interface Theme {
  readonly runId: string;
  readonly leaseToken: string;
  readonly pipeline: string;
}

export function theme(prng: Prng, vocabulary: Vocabulary): Theme {
  const { runId, leaseToken } = prng.pick(vocabulary.claims);
  return {
    runId,
    leaseToken,
    pipeline: prng.chance(0.85) ? (vocabulary.pipelines[0] ?? '') : prng.pick(vocabulary.pipelines),
  };
}

type Texts = (prng: Prng, vocabulary: Vocabulary, one: Theme) => string;

const anyRun: Texts = (prng, vocabulary, { runId }) =>
  prng.chance(0.6) ? runId : prng.pick(vocabulary.runIds);
const pipeline: Texts = (_, __, { pipeline: name }) => name;
const stage: Texts = (prng, { stages }) => (prng.chance(0.7) ? (stages[0] ?? '') : prng.pick(stages));
/** Most often what a worker may report of the runs that are held. */
const status: Texts = (prng, { statuses }) =>
  prng.chance(0.8) ? prng.pick(['building', 'building', 'built', 'error']) : prng.pick(statuses);

const BY_NAME: Readonly<Record<string, Texts>> = {
  id: anyRun,
  run_id: anyRun,
  run_ids: anyRun,
  lease_token: (prng, _, { leaseToken }) => (prng.chance(0.9) ? leaseToken : withOneFlip(prng, leaseToken)),
  pipeline,
  pipelines: pipeline,
  name: pipeline,
  stage,
  stages: stage,
  status,
  statuses: status,
  page_token: (prng, { pageTokens }) => (prng.chance(0.7) ? '' : flipped(prng, prng.pick(pageTokens))),
  after: (prng, { resumeTokens }) => flipped(prng, prng.pick(['', 'oldest', ...resumeTokens])),
  request_id: (prng) => prng.pick(['', `request-${prng.between(0, 3)}`, `request-${prng.next()}`]),
  trace_parent: () => '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01',
  repository: () => 'fuzz',
  concurrency_key: (prng) => prng.pick(['', 'a', 'b']),
  worker_id: (prng) => `worker-${prng.between(0, 3)}`,
  cron: (prng) => prng.pick(['0 3 * * *', '*/5 * * * *', '@hourly']),
  time_zone: (prng) => prng.pick(['', 'UTC', 'Europe/Berlin']),
};

function flipped(prng: Prng, token: string): string {
  return token !== '' && prng.chance(0.3) ? withOneFlip(prng, token) : token;
}

/** @param field its name in the `.proto` */
export function plausibleText(field: string, prng: Prng, vocabulary: Vocabulary, one: Theme): string {
  return BY_NAME[field]?.(prng, vocabulary, one) ?? 'some text';
}

/** Whole numbers by the field's name, where a small one is not what it takes. */
export function plausibleInteger(field: string, prng: Prng): bigint {
  return BigInt(field === 'priority' ? prng.between(0, 9) : prng.between(0, 5));
}

/** A definition that may be put, under a name that is there or is not. */
export function plausiblePipeline(prng: Prng, one: Theme): MessageInitShape<typeof PipelineSchema> {
  const name = prng.chance(0.3) ? one.pipeline : `fuzz_put_${prng.between(0, 5)}`;
  return definition(name === 'ci' ? 'fuzz_put_6' : name, prng.between(1, 3));
}

/** The pipeline that the vocabulary's names of stages and statuses are of. */
export function definition(name: string, stages = 2): MessageInitShape<typeof PipelineSchema> {
  const steps = [
    { name: 'build', waitingStatus: 'queued', processingStatus: 'building', doneStatus: 'built' },
    { name: 'ship', waitingStatus: 'built', processingStatus: 'shipping', doneStatus: 'shipped' },
    { name: 'check', waitingStatus: 'shipped', processingStatus: 'checking', doneStatus: 'checked' },
  ];
  return {
    name,
    initialStatus: 'queued',
    errorStatus: 'error',
    canceledStatus: 'canceled',
    stages: steps.slice(0, stages),
  };
}
