import { useQuery, useQueryClient } from '@tanstack/react-query';
import {
  Activity,
  ChartLine,
  KeyRound,
  LayoutDashboard,
  type LucideIcon,
  MessagesSquare,
  Monitor,
  Moon,
  Sun,
} from 'lucide-react';
import { Link, Redirect, Route, Switch, useLocation } from 'wouter';
import { storedKey, storeKey } from './api/key.ts';
import { useLive } from './api/live.ts';
import { accountQuery } from './api/queries.ts';
import { RequestError } from './api/request.ts';
import { Failure } from './components/states.tsx';
import { chooseTheme, type Theme, useTheme } from './lib/theme.ts';
import { AccountPage } from './pages/account.tsx';
import { OverviewPage } from './pages/overview.tsx';
import { PlaygroundPage } from './pages/playground.tsx';
import { RunPage } from './pages/run.tsx';
import { RunsPage } from './pages/runs.tsx';
import { SamplesPage } from './pages/samples.tsx';
import { SignIn } from './pages/sign-in.tsx';

const PAGES: { path: string; name: string; icon: LucideIcon }[] = [
  { path: '/', name: 'Overview', icon: LayoutDashboard },
  { path: '/runs', name: 'Runs', icon: ChartLine },
  { path: '/playground', name: 'Playground', icon: MessagesSquare },
  { path: '/samples', name: 'Samples', icon: Activity },
  { path: '/account', name: 'Account', icon: KeyRound },
];

/** Asks for a key where one is needed, and shows the pages. */
export function App() {
  const client = useQueryClient();
  const { data: account, error } = useQuery(accountQuery);
  const enter = (key: string | null): void => {
    storeKey(key);
    void client.resetQueries();
  };
  if (error instanceof RequestError && error.status === 401) {
    return <SignIn refused={storedKey() !== null} onKey={enter} />;
  }
  if (error) {
    return (
      <main className="gate">
        <Failure error={error} />
      </main>
    );
  }
  if (!account) return <main className="gate" aria-busy="true" />;
  return <Shell owner={account.owner} version={account.version} onLeave={() => enter(null)} />;
}

function Shell({ owner, version, onLeave }: { owner: string; version: string; onLeave: () => void }) {
  const client = useQueryClient();
  const isLive = useLive(client);
  const [location] = useLocation();
  return (
    <div className="shell">
      <a className="skip" href="#content">
        Skip to the content
      </a>
      <aside className="side">
        <Link href="/" className="brand">
          <img src="/favicon.svg" alt="" width={22} height={22} />
          Anneal
        </Link>
        <nav aria-label="Pages">
          {PAGES.map(({ path, name, icon: Icon }) => {
            const isHere = path === '/' ? location === '/' : location.startsWith(path);
            return (
              <Link key={path} href={path} className="nav-link" aria-current={isHere ? 'page' : undefined}>
                <Icon size={16} strokeWidth={1.75} aria-hidden />
                <span>{name}</span>
              </Link>
            );
          })}
        </nav>
        <div className="side-foot">
          <span className={isLive ? 'live live-on' : 'live'} role="status">
            {isLive ? 'Live' : 'Reconnecting'}
          </span>
          <ThemeChoice />
          <div className="side-owner">
            <span title={`Signed in as ${owner}`}>{owner}</span>
            <button type="button" className="link" onClick={onLeave}>
              Forget key
            </button>
          </div>
          <span className="side-version muted">Anneal {version}</span>
        </div>
      </aside>
      <main id="content" className="content" tabIndex={-1}>
        <Switch>
          <Route path="/" component={OverviewPage} />
          <Route path="/runs" component={RunsPage} />
          <Route path="/runs/:run">{({ run }) => <RunPage key={run} id={decodeURIComponent(run)} />}</Route>
          <Route path="/playground" component={PlaygroundPage} />
          <Route path="/samples/:session?/:rollout?">
            {({ session, rollout }) => (
              <SamplesPage
                session={session && decodeURIComponent(session)}
                rollout={rollout && decodeURIComponent(rollout)}
              />
            )}
          </Route>
          <Route path="/account" component={AccountPage} />
          <Route>
            <Redirect to="/" />
          </Route>
        </Switch>
      </main>
    </div>
  );
}

const THEMES: { theme: Theme; name: string; icon: LucideIcon }[] = [
  { theme: 'system', name: 'Colours of the system', icon: Monitor },
  { theme: 'light', name: 'Light', icon: Sun },
  { theme: 'dark', name: 'Dark', icon: Moon },
];

function ThemeChoice() {
  const current = useTheme();
  return (
    <fieldset className="segments" aria-label="Colours">
      {THEMES.map(({ theme, name, icon: Icon }) => (
        <button
          key={theme}
          type="button"
          aria-pressed={theme === current}
          aria-label={name}
          title={name}
          onClick={() => chooseTheme(theme)}
        >
          <Icon size={14} aria-hidden />
        </button>
      ))}
    </fieldset>
  );
}
