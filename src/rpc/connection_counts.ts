import { Tally, type Metric } from '../base/metrics.js';

const LISTENERS = ['grpc', 'http'] as const;
export type ListenerName = (typeof LISTENERS)[number];

/** What the listeners did to connections and requests so that they hurt no others. */
export class ConnectionCounts {
  /** Closed at once, because there were too many. */
  readonly refused = new Tally<ListenerName>(LISTENERS);
  /** Closed because of too many resets, or of too many HTTP/1.1 requests at once. */
  readonly closed = new Tally<ListenerName>(LISTENERS);
  /** Requests closed because they did not come to an end. */
  readonly requests = new Tally<ListenerName>(LISTENERS);

  readonly metrics: readonly Metric[] = [
    {
      name: 'baton_connections_refused_total',
      help: 'Connections that were refused because there were too many.',
      type: 'counter',
      labels: ['listener'],
      read: () => this.refused.samples('listener'),
    },
    {
      name: 'baton_connections_closed_total',
      help: 'Connections that were closed because they reset too many streams or sent too many requests at once.',
      type: 'counter',
      labels: ['listener'],
      read: () => this.closed.samples('listener'),
    },
    {
      name: 'baton_requests_closed_total',
      help: 'Requests that were closed because they did not come to an end.',
      type: 'counter',
      labels: ['listener'],
      read: () => this.requests.samples('listener'),
    },
  ];
}

/** The counts of one listener. */
export interface ListenerCounts {
  readonly connectionRefused: () => void;
  readonly connectionClosed: () => void;
  readonly requestClosed: () => void;
}

export function countsOf(counts: ConnectionCounts | undefined, listener: ListenerName): ListenerCounts {
  return {
    connectionRefused: () => counts?.refused.add(listener),
    connectionClosed: () => counts?.closed.add(listener),
    requestClosed: () => counts?.requests.add(listener),
  };
}
