/* collect.pml - the log layout's clocks: freshness, checkpoints, collection, doubt, slow bodies.
 *
 * One replica in every step, and all the others as a world that does at any moment whatever a
 * replica that keeps the rules may do: create the next number, bring the snapshot up, collect what
 * is old enough. That the one never does more than the world is assumed to do (create a number
 * anew, collect too early, write a snapshot of what is no version) is asserted, so the two together
 * stand for any number of replicas: the first of them to do it would have been caught.
 *
 * Time goes in units of 15 (or 5) minutes, and only as ages, which stop to grow where nobody asks
 * any more: so it may go on for ever. Every request is signed by a clock that is anywhere within
 * what the server accepts (15 minutes), and another one each time. Between any two atomic blocks
 * (one request at the server each, or one durable save) the world goes on, the machine sleeps, or
 * the process dies.
 *
 * Asserted: what is acknowledged is the first that stood at its number; what is said not to have
 * happened did not; who ends a probe or a pull is as new as the log was when it began; nobody takes
 * over, or writes into a snapshot, what is no version; nobody is stuck. */

#ifndef V
#define V 3 /* versions */
#endif
#ifndef RECENT
#define RECENT 1 /* entries in db-recent (64) */
#endif

/* Units in 15 minutes: 1, or 3 where the 10 minutes of a late answer are to be exact. */
#ifndef T
#define T 1
#endif
/* Signing times are ages + T: 0 is 15 minutes ahead of the server's clock. Every bound is met in
 * full units and included: what whole numbers of them show holds for all times between. */
#ifdef NO_window /* how long is fresh depends on the writer's own retention */
#define FRESH (6 * T)
#else
#define FRESH (2 * T)
#endif
#define STALE (FRESH + 2 * T + 1)
#define IS_FRESH(when, stamped) (when >= stamped && when - stamped <= FRESH)
#define EXPIRED (2 * T + 1) /* a signature that the server does not take any more */
#if T == 1
#define LATE 2 /* units and 1; rounded up */
#else
#define LATE 3
#endif
#define OLD (5 * T) /* of segments */
#ifdef NO_age
#define COLLECT 0
#else
#ifdef NO_margin
#define COLLECT (4 * T) /* the retention alone */
#else
#define COLLECT (6 * T)
#endif
#endif

/* the bucket; what is at a key */
#define NOTHING 0
#define REAL    1 /* the first that stood there */
#define OTHERS  2 /* created anew, by a body that was on its way for longer than any age */
#define MINE    3 /* the same, and ours */
byte seg[V + 2];
byte lm[V + 2];
byte top = 1;         /* the newest version */
byte snap = 1;        /* version of the snapshot */

/* the replica: what its state file keeps */
byte base = 1;
bool pend = false;    /* base + 1 is intended, and perhaps in doubt */
byte verified = T;
byte seen = 1;        /* the highest snapshot that was seen */
/* what is so, whether it knows or not */
bool mine = false;    /* its pending content is version base + 1 */
/* its PUT; and one that it does not wait for any more, of a number that it has given up */
byte fly = 0, sage = 0;
#define SENT 1
#define BODY 2        /* its signature was accepted and the body goes on */
bool body = false;    /* that of an earlier attempt goes on, too */
byte oldver = 0, oldage = 0;
byte stamp = STALE;   /* signing time of the request whose answer is being looked at */
byte kept = STALE;    /* `verified` of the base, while a pull looks beyond it */
byte took = 0;        /* units since the PUT was signed, and 1; 0: none is waited for */
#ifdef RESTORE
bool restored = false; /* an older snapshot was put back */
bool refused = false;  /* and a probe has seen that */
#endif

inline any_time(e)
{
    e = 0;
    do
    :: e < 2 * T -> e++
    :: break
    od
}

/* Our PUT of base + 1 reaches the server, or its body's end does. */
inline land()
{
    if
    :: seg[base + 1] != NOTHING -> ok = false
    :: else ->
        ok = true;
        lm[base + 1] = 0;
        if
        :: top == base -> top++; mine = true; seg[top] = REAL
        :: top > base && mine -> seg[base + 1] = REAL /* the same bytes once more */
        :: else ->
#ifdef SLOW
            assert(base + 1 <= snap);
#else
            assert(false); /* a number that was another's is created anew */
#endif
            seg[base + 1] = MINE
        fi
    fi
}

inline drop_pending()
{
    pend = false; mine = false; body = false;
    if
    :: fly != 0 -> oldver = base + 1; oldage = sage; fly = 0; sage = 0
    :: else
    fi
}

/* It is ours: it becomes the base. */
inline acknowledge()
{
    assert(pend && mine);
#ifndef RESTORE
    assert(seg[base + 1] == REAL || snap > base);
#endif
    pend = false; mine = false; body = false; fly = 0; sage = 0;
    base++
}

/* It did not happen, and will not: another has the number. */
inline deny()
{
    assert(!mine && top > base);
    drop_pending()
}

inline head()
{
    s = snap
}
inline look_back()
{
#ifdef RESTORE
    refused = (s < seen)
#else
    skip
#endif
}
#ifdef NO_older
#define NOT_OLDER true
#else
#define NOT_OLDER (s >= seen)
#endif

/* r2_settle(), r2_layout_maker(): by the segment x at our number. */
inline settle_by_segment()
{
    if
    :: pend && ((x == REAL && mine) || x == MINE) -> acknowledge(); moved = true
    :: pend && !((x == REAL && mine) || x == MINE) -> deny()
    :: else
    fi
}

/* By the db-recent of a snapshot s that is past our number. */
inline settle_by_recent()
{
    if
    :: pend && s - base <= RECENT && mine -> acknowledge(); moved = true
    :: pend && s - base <= RECENT && !mine -> deny()
#ifdef NO_hidden /* it does not say: then it was another's */
    :: pend && s - base > RECENT -> deny()
#else
    :: pend && s - base > RECENT && mine && seg[base + 1] == REAL && seg[base + 2] != NOTHING ->
        acknowledge(); moved = true /* ours, and the next one continues it and is not older */
    :: pend && s - base > RECENT && !(mine && seg[base + 1] == REAL && seg[base + 2] != NOTHING) ->
        drop_pending() /* a fork, and nobody is told anything */
#endif
    :: else
    fi
}

inline send()
{
#ifdef RESTORE
    assert(!refused); /* who has seen that an older snapshot stands there goes on no more */
#endif
    body = body || fly == BODY;
    fly = SENT; sage = e; stamp = e; took = 1; e = 0
}

proctype Replica()
{
    byte h, x, e, s, start;
    bool moved, ok, bad;

idle: /* a process that dies begins here again */
    atomic {
        h = 0; x = 0; e = 0; s = 0; start = 0;
        moved = false; ok = false; bad = false;
        stamp = STALE; took = 0; kept = STALE;
        if
        :: !pend && base < V -> pend = true; goto sign /* intend(): durable */
        :: goto probe
        :: base > seen -> goto checkpoint
        :: base > 1 -> goto collect
        fi
    }

    /* ---- r2_log_push(): attempt() looks whether it is still fresh as it signs ---- */
sign:
    atomic {
        any_time(e);
        if
        :: IS_FRESH(verified, e)
        :: else -> verified = STALE; e = 0; goto probe /* R2_STALE: be_fresh() */
        fi;
#ifndef NO_check
        send();
        goto wait
#else
        e = 0 /* looked at, and then the machine sleeps */
#endif
    }
#if defined(NO_check) || defined(NO_resign)
resign:
    atomic { any_time(e); send() }
#endif
wait:
    if
    :: atomic { fly == SENT && sage < EXPIRED -> fly = 0; sage = 0; land() }
#ifdef SLOW /* the signature is good, the body takes its time */
    :: atomic { fly == SENT && sage < EXPIRED -> fly = BODY; sage = 0 }
        if
        :: atomic { fly == BODY -> fly = 0; sage = 0; land() }
        :: atomic { goto look }
        fi
#endif
    :: atomic { fly == SENT && sage == EXPIRED -> /* 403: the date is too far off */
        fly = 0; sage = 0; took = 0; stamp = STALE;
#if defined(NO_resign) || defined(NO_check)
        goto resign
#else
        goto sign
#endif
      }
    :: goto look /* no answer; it may still land */
    :: goto idle /* and the process dies */
    fi;
    if
    :: atomic { !ok -> goto look } /* 412 */
    :: atomic { ok -> skip }
    :: goto look
    :: goto idle
    fi;
    atomic { /* the answer, within 10 minutes or not */
        if
        :: took <= LATE -> verified = stamp; goto landed
#ifdef NO_late
        :: took > LATE -> verified = stamp; goto landed
#else
        :: took >= LATE -> ok = false; took = 0
#endif
        fi
    }
    atomic { /* confirm() */
        head();
        if
        :: s <= base ->
#ifdef NO_late_stamp /* verified as of the HEAD */
            any_time(e);
            verified = e;
            e = 0;
#else
            verified = stamp;
#endif
            goto landed
        :: s > base && s < seen -> verified = STALE; goto idle
        :: else ->
            verified = STALE;
#ifdef NO_late_recent
            deny();
#else
            settle_by_recent();
#endif
            goto fetch
        fi
    }
landed:
    if
    :: goto idle /* dies before it saves what it knows */
    :: atomic { acknowledge(); goto idle }
    fi;

    /* ---- look(): 412, or no answer ---- */
look:
    atomic {
        took = 0; stamp = STALE; ok = false;
        x = seg[base + 1];
        if
        :: x != NOTHING -> goto known
        :: else
        fi
    }
    atomic {
        head();
        if
        :: s <= base ->
            s = 0;
            if
            :: goto sign /* the same bytes again */
            :: goto idle /* R2_UNKNOWN */
            fi
        :: else
        fi;
#ifdef NO_once
        assert(!(mine && seg[base + 1] == REAL) || s - base <= RECENT);
        settle_by_recent();
        goto probe
#endif
    }
    atomic { /* collected, or created in between: once more */
        s = 0;
        x = seg[base + 1];
        if
        :: x != NOTHING -> goto known
        :: else
        fi
    }
    atomic {
        head();
        if
        :: s > base ->
#ifndef SLOW
            assert(!(mine && seg[base + 1] == REAL) || s - base <= RECENT); /* it can be told */
#endif
            settle_by_recent()
        :: else
        fi;
        goto probe
    }
known:
#ifdef NO_known_head
    atomic { settle_by_segment(); goto probe }
#else
    atomic { /* one that was created anew is none */
        head();
        if
        :: s <= base -> settle_by_segment()
        :: else -> settle_by_recent()
        fi;
        goto probe
    }
#endif

    /* ---- r2_log_probe(), r2_settle(), follow() ---- */
probe:
    atomic {
        s = 0; x = 0; took = 0; stamp = STALE; moved = false; ok = false; start = top;
#ifdef NO_order
        head() } /* HEAD first */
    atomic {
#endif
        any_time(e);
        x = seg[base + 1];
        if
        :: x == NOTHING && IS_FRESH(verified, e) -> verified = e; goto newest
        :: x == NOTHING && !IS_FRESH(verified, e) ->
#ifdef NO_head
            verified = e;
            goto newest
#else
            stamp = e; e = 0
#endif
        :: x != NOTHING && pend -> e = 0; goto known
        :: x != NOTHING && !pend -> e = 0; h = base; kept = verified; goto links
        fi
    }
    atomic {
#ifndef NO_order
        head();
#endif
        if
        :: s <= base && NOT_OLDER -> look_back(); seen = s; verified = stamp; stamp = STALE; goto newest
        :: s > base ->
            settle_by_recent();
            if
            :: moved -> goto probe
            :: else -> goto fetch
            fi
        :: s <= base && !NOT_OLDER -> look_back(); verified = STALE; goto idle /* older than one seen: refused */
        fi
    }
newest:
    atomic {
        assert(base >= start);
        if
        :: pend -> goto sign /* the same bytes again */
        :: goto idle
        fi
    }

    /* ---- r2_log_follow(): link by link ---- */
fetch: /* from the snapshot */
    atomic {
        head();
        x = 0; stamp = STALE; moved = false; took = 0; ok = false;
        if
        :: NOT_OLDER
        :: else -> verified = STALE; goto idle
        fi;
        h = s; seen = s; verified = STALE; s = 0
    }
links:
    atomic { bad = false }
link:
    atomic {
        any_time(e);
        x = seg[h + 1];
        if
        :: x != NOTHING && !bad ->
            h++;
            bad = (x != REAL);
#ifdef NO_lm /* read just now: up to date as of now */
            verified = e;
#else
            if
#ifndef NO_was_fresh /* Last-Modified verifies only for whom a 404 would have been enough */
            :: !IS_FRESH(verified, e) -> verified = STALE
            :: IS_FRESH(verified, e) && lm[h] + T < verified -> verified = lm[h] + T
            :: IS_FRESH(verified, e) && lm[h] + T >= verified
#else
            :: lm[h] + T < verified -> verified = lm[h] + T
            :: else
#endif
            fi;
#endif
            x = 0; e = 0;
            goto link
        :: x != NOTHING && bad -> x = 0; e = 0; goto damaged /* it continues another chain */
        :: x == NOTHING && IS_FRESH(verified, e) -> verified = e; goto install
        :: x == NOTHING && !IS_FRESH(verified, e) -> stamp = e; e = 0
        fi
    }
    atomic { /* r2_log_gap() */
        head();
        if
#ifndef NO_sum /* the snapshot is that very version, and has another checksum */
        :: s == h && bad -> goto fetch
        :: s <= h && NOT_OLDER && !(s == h && bad) ->
#else
        :: s <= h && NOT_OLDER ->
#endif
            look_back(); seen = s; verified = stamp; stamp = STALE; goto install
        :: s <= h && !NOT_OLDER -> look_back(); verified = STALE; goto idle
        :: s > h -> goto fetch
        fi
    }
damaged: /* r2_log_beyond_damage() */
    atomic {
        head();
        assert(s > base); /* else nobody gets on from here */
        goto fetch
    }
install:
    if
    :: true
    :: atomic { true -> /* the file is busy, or was written to: the base stays what it is */
#ifndef NO_installed
        verified = kept;
#endif
        goto idle
      }
    fi;
    atomic {
        assert(!bad);
        assert(h >= start);
        if
        :: pend && h > base -> drop_pending()
        :: else
        fi;
        base = h;
        goto idle
    }

    /* ---- replica_checkpoint.c: the base becomes the snapshot where an older one is ---- */
checkpoint:
    atomic {
        head();
        if
        :: s < base && NOT_OLDER -> h = base
        :: s >= base -> seen = s; goto idle
        :: else -> goto idle
        fi
    }
    atomic { /* If-Match */
        if
        :: snap == s -> assert(h <= top); snap = h; seen = h
        :: else
        fi;
        goto idle
    }

    /* ---- log_collect.c ---- */
collect:
    atomic {
#ifdef NO_read /* up to what this replica holds */
        h = base;
#else
        head();
        h = s; s = 0;
#endif
        if
        :: h < 2 -> goto idle
        :: else
        fi
    }
    atomic { /* the listing, signed as late as can be: in order, up to the first too young */
        s = 1;
        do
        :: s < h && (seg[s + 1] == NOTHING || lm[s + 1] + T >= COLLECT) -> s++
        :: else -> break
        od;
        h = s; s = 0
    }
    do
    :: atomic { h >= 2 ->
        if
        :: seg[h] != NOTHING ->
            /* what the world does, and not more; what was created anew is nobody's */
#ifdef RESTORE
            assert(h <= snap || restored);
#else
            assert(h <= snap);
#endif
            assert(lm[h] >= 5 * T || seg[h] != REAL);
            seg[h] = NOTHING; lm[h] = 0
        :: true /* another one before it, or never */
        fi;
        h--
      }
    :: atomic { h < 2 -> goto idle }
    od
}

/* All other replicas, the rest of the network, and time. */
proctype World()
{
    byte n;
    bool ok;
    do
    :: atomic { top < V -> top++; seg[top] = REAL; lm[top] = 0 } /* somebody's push */
    :: atomic {
#ifdef RESTORE
        !restored &&
#endif
        snap < top ->
            snap++
      }
    :: atomic { /* somebody collects */
        n = 2;
        do
        :: n < V -> n++
        :: break
        od;
        if
#ifdef NO_read
        :: seg[n] != NOTHING && lm[n] + T >= COLLECT -> seg[n] = NOTHING; lm[n] = 0
#else
        :: n <= snap && seg[n] != NOTHING && lm[n] + T >= COLLECT -> seg[n] = NOTHING; lm[n] = 0
#endif
#ifdef SLOW /* somebody's slow body */
        :: n <= snap && seg[n] == NOTHING -> seg[n] = OTHERS; lm[n] = 0
        :: seg[n] > REAL -> seg[n] = NOTHING; lm[n] = 0
#endif
        :: else
        fi;
        n = 0
      }
    :: atomic { (fly == SENT && sage < EXPIRED) || fly == BODY ->
        fly = 0; sage = 0; land();
        ok = false
      }
    :: atomic { body ->
        body = false; land();
        ok = false
      }
    :: atomic { oldver != 0 ->
        if
#ifndef SLOW
        :: oldage < EXPIRED -> assert(seg[oldver] != NOTHING)
#endif
        :: else
        fi;
        oldver = 0; oldage = 0
      }
    :: d_step { /* time goes on */
        n = 2;
        do
        :: n <= V ->
            if
            :: seg[n] != NOTHING && lm[n] < OLD -> lm[n]++
            :: else
            fi;
            n++
        :: else -> break
        od;
        n = 0;
        if
        :: fly == SENT && sage < EXPIRED -> sage++
        :: else
        fi;
        if
        :: oldver != 0 && oldage < EXPIRED -> oldage++
        :: else
        fi;
        if
        :: verified < STALE -> verified++
        :: else
        fi;
        if
        :: stamp < STALE -> stamp++
        :: else
        fi;
        if
        :: kept < STALE -> kept++
        :: else
        fi;
        if
        :: took != 0 && took <= LATE -> took++
        :: else
        fi
      }
#ifdef RESTORE
    :: atomic { !restored && snap > 1 && seen == snap -> restored = true; snap = 1 }
#endif
    od
}

init
{
    atomic {
        seg[1] = REAL;
        run Replica(); run World()
    }
}
