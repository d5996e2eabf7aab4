/**
 * Every bound of the service in one place. A limit that the `.proto` states has the same number there; lengths are
 * counted in characters (UTF-16 code units) unless the name says bytes.
 */
export const LIMITS = {
  // Runs.
  repositoryChars: 256,
  labelCount: 32,
  labelKeyChars: 63,
  labelValueChars: 256,
  payloadBytes: 1024 * 1024,
  checkpointBytes: 64 * 1024,
  priorityMax: 9,
  concurrencyKeyChars: 256,
  requestIdChars: 128,
  workerIdChars: 128,
  statusMessageChars: 1024,
  cancelReasonChars: 1024,
  errorCodeChars: 64,
  errorMessageChars: 4096,
  attemptsMax: 100,
  /** A schedule further away than this is taken for a mistake in units. */
  scheduleMaxMs: 10 * 365 * 24 * 3600 * 1000,

  // Pipelines.
  nameChars: 63,
  descriptionChars: 1024,
  stagesPerPipeline: 32,
  leaseMinMs: 1000,
  leaseMaxMs: 24 * 3600 * 1000,
  timeoutMinMs: 1000,
  timeoutMaxMs: 30 * 24 * 3600 * 1000,
  backoffMaxMs: 24 * 3600 * 1000,
  backoffMultiplierMax: 10,
  activeMax: 1_000_000,

  // Schedules.
  schedulesPerPipeline: 32,
  /** Shorter than other names: request_ids of its runs, with a pipeline's name and a time, fit `requestIdChars`. */
  scheduleNameChars: 32,
  cronChars: 256,
  timeZoneChars: 64,
  /** Small, because a list of pipelines carries the inputs of all their schedules. */
  scheduleInputBytes: 64 * 1024,
  /** Schedules whose ticks are made in one transaction. */
  dueSchedules: 100,
  /** A tick that is later than this was missed, and stands for those before it. */
  tickMissedMs: 10_000,
  /** How long a schedule that cannot be made out, or whose run cannot be created, is left alone. */
  scheduleRetryMs: 60_000,
  /** A server that stands still inside a transaction loses it, so that others can make its ticks in time. */
  tickIdleMs: 2000,
  /** How long a tick waits for what others have locked: it comes again in a second. */
  tickLockMs: 1000,

  // Calls.
  batchItems: 1000,
  /** Runs that CancelRuns and RetryRuns change in one transaction. */
  bulkStep: 500,
  claimRuns: 1000,
  claimWaitMaxMs: 50_000,
  /** Large runs that GetRun reads at once. Two at once take both cores of a small machine from others. */
  largeRunsRead: 1,
  /** How long a large request or answer keeps others like it waiting, at most. */
  roomMs: 1000,
  pageSizeDefault: 50,
  pageSizeMax: 1000,
  filterValues: 100,
  /** Each level of an object is up to three messages on the wire, and most clients take at most 100 inside each other. */
  jsonDepth: 30,
  messageBytes: 16 * 1024 * 1024,
  /** Values in one object of the API, and values and set fields in a whole request. */
  structValues: 65_536,
  requestValues: 250_000,
  /** Violations that an error lists before it says how many more there are, and what each may say. */
  violations: 20,
  violationFieldChars: 200,
  violationChars: 300,
  /** What an error's message says of them. */
  violationsTextChars: 900,
  /** Where pages, histories and claims end, in bytes as encoded: gRPC clients take 4 MiB unless they are told otherwise. */
  answerBytes: 3 * 1024 * 1024,
  /** Bytes of payload, as stored, of all claims that one statement makes for whoever asks at the same time. */
  claimBytes: 8 * 1024 * 1024,
  /** A payload that is longer as text is not read: more than three of a run that were accepted can have. */
  payloadTextBytes: 48 * 1024 * 1024,
  claimWaiters: 20_000,
  /** Stages of which a server remembers how far they are claimed. */
  markedStages: 10_000,
  /** Calls that are merged into one transaction; see service/group_commit.ts. Weight is characters of payload. */
  groups: {
    groupItems: 500,
    partItems: 32,
    groupWeight: 4 * 1024 * 1024,
    waitingItems: 10_000,
    waitingWeight: 64 * 1024 * 1024,
    aloneInFlight: 3,
    aloneWaitMs: 5000,
  },

  // Watch.
  bookmarkDefaultMs: 10_000,
  bookmarkMinMs: 1000,
  bookmarkMaxMs: 60_000,
  /** Events in one page of the log, and so in one response. */
  pageEvents: 500,
  /** Bytes of payload after which a page of the log, of runs or of a history is cut short. */
  pageBytes: 1024 * 1024,
  /** What one stream may hold in the server before it has to catch up from the log by itself. */
  streamBytes: 256 * 1024,
  /** Bytes after which the events of one page go into another response. A single larger event has one for itself. */
  responseBytes: 128 * 1024,
  /** Pages, and events in them, that the hub remembers, so that a stream that is nearly there needs no query. */
  recentPages: 64,
  recentEvents: 2000,
  /** Pages that were read for one stream and are kept for others that catch up, and for how long. */
  sharedPages: 16,
  sharedPageMs: 2000,
  streams: 20_000,

  /** Revisions in one partition of the log, and how many partitions are made ahead of the head. */
  partitionRevisions: 1_000_000,
  partitionsAhead: 3,
  /** Finished runs that are removed in one statement. */
  removedRuns: 1000,
  /** How long a stream may leave its writer blocked before it is ended. */
  stallMs: 60_000,
  /** States that are read at a time, each on a connection of its own, and how long one may stand still if others wait. */
  stateConnections: 4,
  stateStallMs: 3000,
  /** How long one stream may read a state: it has a connection, and holds back vacuum while it lasts. */
  stateMs: 60_000,
  /** A stream is ended at this age or up to half of it before, because a proxy would end it less politely. */
  streamAgeMaxMs: 60 * 60_000,

  // Database.
  poolConnections: 10,
  poolConnectionsMax: 200,
  /** Connections that read the log, for live streams and for those that catch up. */
  watchConnections: 3,
  /** A read of the log that takes longer has lost its connection: streams must not stand still behind it. */
  watchQueryTimeoutMs: 5000,
  pollIntervalMs: 1000,
  /** How long one reading of the figures may take in the database. */
  statsTimeoutMs: 20_000,

  // The log.
  /** Lines of one kind that are written in a window; what follows is counted, and told in one line at its end. */
  logLines: 10,
  logWindowMs: 10_000,
  /** Kinds that are told apart in one window. */
  logKinds: 100,
  /** Bytes of log that wait for a slow reader; lines beyond are lost and counted. */
  logPendingBytes: 1024 * 1024,
} as const;
