/* push.pml - the log layout's push: create, doubt, settle, pull, crash. No clocks: collect.pml.
 *
 * Two replicas of one database, whose versions are segments with keys 2, 3 ... A content is a set
 * of commits (bits); what is tried under a number is an id (the nonce) with its content and parent.
 * One atomic block is one request at the server, or one durable save; between any two of them the
 * others run, or the process dies. -DCOMMIT: sync=commit, else sync=close/manual/N.
 *
 * Asserted: a version continues the one below it and takes nothing back; what is acknowledged is in
 * the log; what is said to have failed never lands; nobody is in conflict with itself; a pull ends
 * at the log's head; when all is quiet every replica gets there, with nothing in doubt. */

#ifndef R
#define R 2 /* replicas */
#endif
#ifndef IDS
#define IDS 4 /* contents tried in all, the birth being the first */
#endif
#ifndef COMMITS
#define COMMITS 3
#endif
#ifndef LOST
#define LOST 2 /* PUTs whose answer is lost, and which may land whenever they like */
#endif
#ifndef CRASHES
#define CRASHES 1
#endif
#define TRIES 3 /* R2_TRIES_MAX */

mtype { none, push, pull };
#define NOBODY  0
#define LATEST  1
#define EARLIER 2
#define OTHER   3

/* the bucket */
byte seg[IDS + 2];      /* number -> id; 0: no such key */
bool flying[IDS + 1];   /* sent, not answered, may still land */
/* contents */
byte ids = 1;
byte ver[IDS + 2], par[IDS + 2], cont[IDS + 2], own[IDS + 2];
/* what the environment may still do */
byte lost = LOST, crashes = CRASHES, commits = 0;
byte failed = 0;        /* commits whose COMMIT said: it did not happen */
bool quiet = false;
byte turn = 0;          /* in the quiet the replicas come one after the other, twice */

/* a replica's state file (r2_record) and its database file; both survive a crash */
byte base[R];
byte file[R];
mtype pk[R] = none;     /* pending.kind */
byte ntry[R];
byte tryid[R * TRIES];
byte gone[R];           /* try[].gone, a bit each */
bool exact[R];
byte pullid[R];

#define NEXT(id) (ver[id] + 1)
#define LAST_TRY tryid[me * TRIES + ntry[me] - 1]
#define DIRTY    (file[me] != cont[base[me]])
#define HEAD(h)                                                                                   \
    h = 1;                                                                                         \
    do                                                                                             \
    :: seg[h + 1] -> h++                                                                           \
    :: else -> break                                                                               \
    od

/* The server creates a key that is not there. */
inline land(id)
{
    if
    :: seg[ver[id]] == 0 ->
        assert(par[id] == seg[ver[id] - 1]);                      /* continues the one below */
        assert((cont[id] & cont[par[id]]) == cont[par[id]]);      /* and takes nothing back */
        assert((cont[id] & failed) == 0);
        seg[ver[id]] = id
    :: else
    fi
}

/* Acknowledged: it is in the log, and will be. */
inline acknowledge(id, content)
{
    assert(seg[ver[id]] == id);
    assert((content & ~cont[id]) == 0)
}

/* r2_next_try(), r2_op_save(): what is sent is written down before. */
inline intend(content)
{
    if
    :: pk[me] == push && cont[LAST_TRY] == content -> cur = LAST_TRY /* the same nonce again */
    :: else ->
        if
        :: pk[me] != push -> ntry[me] = 0; gone[me] = 0
        :: else
        fi;
        if
        :: ids == IDS || ntry[me] == TRIES -> cur = 0 /* the model ends here; the code: R2_UNKNOWN */
        :: else ->
            ids++;
            cur = ids;
            ver[cur] = NEXT(base[me]);
#ifdef NO_same_number /* a doubt: go on under the next number */
            if
            :: pk[me] == push -> ver[cur] = NEXT(LAST_TRY)
            :: else
            fi;
#endif
            par[cur] = base[me];
            cont[cur] = content;
            own[cur] = me;
#ifndef NO_intent
            pk[me] = push;
            ntry[me]++;
            LAST_TRY = cur
#endif
        fi
    fi
}

/* r2_layout_maker(): who made `seen`? */
inline made_by()
{
    which = 0;
    if
    :: seen == 0 -> maker = NOBODY
    :: else ->
        maker = OTHER;
        k = ntry[me];
        do
        :: k > 0 && maker == OTHER ->
            k--;
#ifdef NO_nonce /* equal bytes are the same version */
#define WEIGHT(c) ((c & 1) + ((c >> 1) & 1) + ((c >> 2) & 1) + ((c >> 3) & 1))
#define SAME_AS(a, b) (ver[a] == ver[b] && WEIGHT(cont[a]) == WEIGHT(cont[b]))
#else
#define SAME_AS(a, b) (a == b)
#endif
            if
            :: SAME_AS(tryid[me * TRIES + k], seen) ->
                which = k;
                if
                :: k + 1 == ntry[me] -> maker = LATEST
                :: else -> maker = EARLIER
                fi
            :: else
            fi
        :: else -> break
        od;
        k = 0;
#ifdef NO_other /* what stands at the key is always ours */
        maker = LATEST; which = ntry[me] - 1;
#endif
#ifdef NO_ours /* what stands there is never ours */
        maker = OTHER;
#endif
#ifdef NO_earlier /* only the newest nonce is kept */
        if
        :: maker == EARLIER -> maker = OTHER
        :: else
        fi;
#endif
    fi
}

inline forget_pending()
{
    pk[me] = none;
    ntry[me] = 0; gone[me] = 0; exact[me] = false; pullid[me] = 0;
    tryid[me * TRIES] = 0; tryid[me * TRIES + 1] = 0; tryid[me * TRIES + 2] = 0
}

/* A conflict is with somebody else: our own version, which the file still holds, is none. */
inline conflict_is_real()
{
    k = seg[NEXT(base[me])];
    assert(k == 0 || own[k] != me || (cont[k] & ~file[me]) != 0);
    k = 0
}

/* r2_settle() with judge(): by what a probe saw. */
inline settle()
{
    moved = false;
    if
    :: pk[me] == push ->
        if
        :: exact[me] && !(gone[me] & (1 << (ntry[me] - 1))) -> /* a COMMIT that did not come back */
            exact[me] = false;
#ifndef NO_judge
            if
            :: file[me] != cont[LAST_TRY] -> gone[me] = gone[me] | (1 << (ntry[me] - 1))
            :: else
            fi
#endif
        :: else
        fi;
        made_by();
        if
        :: (maker == LATEST || maker == EARLIER) && (gone[me] & (1 << which)) -> maker = OTHER
        :: else
        fi;
        if
        :: maker == NOBODY ->
#ifdef NO_doubt /* a 404 ends it */
            forget_pending()
#else
            skip
#endif
        :: maker == LATEST || maker == EARLIER ->
            base[me] = tryid[me * TRIES + which];
            forget_pending();
            moved = true
        :: else ->
            conflict_is_real();
            forget_pending()
        fi;
        maker = NOBODY; which = 0
    :: else
    fi
}

/* r2_finish_pull(): a pull that was cut short; the file says how far it came. */
inline finish_pull()
{
    if
    :: pk[me] == pull ->
        if
        :: file[me] == cont[pullid[me]] -> base[me] = pullid[me]
        :: else
        fi;
        forget_pending()
    :: else
    fi
}

/* The process dies here, or goes on. */
#define MAY_DIE                                                                                    \
    if                                                                                             \
    :: true                                                                                        \
    :: atomic { crashes > 0 && !quiet -> crashes--; goto down }                                    \
    fi

proctype Replica(byte me)
{
    byte seen, staged, cur, maker, which, k, head, start;
    bool moved, adopting, whole;
    byte round, calls;

down: /* nothing but the two files is left; an open begins with the same look */
idle:
    atomic {
        seen = 0; staged = 0; cur = 0; maker = 0; which = 0; k = 0; head = 0; start = 0;
        moved = false; adopting = false; whole = false;
        if
        :: quiet -> goto last
#ifdef COMMIT
        :: !quiet && commits < COMMITS && ids < IDS -> goto commit
#else
        :: !quiet && (pk[me] != none || DIRTY) -> goto sync
#endif
        :: !quiet && (pk[me] != none || seg[NEXT(base[me])] != 0) -> goto follow
        fi
    }

    /* ---- follow() of replica_pull.c: pull what is newer ---- */
follow:
    atomic { finish_pull(); HEAD(start) }
    MAY_DIE;
    atomic { seen = seg[NEXT(base[me])]; settle() } /* r2_log_probe(), r2_settle() */
    atomic {
        if
#ifndef NO_again
        :: moved -> seen = seg[NEXT(base[me])] /* perhaps not the last one: r2_probe() again */
#endif
        :: else
        fi;
        if
        :: seen == 0 || seen == base[me] ->
            HEAD(head);
            assert(ver[base[me]] >= start || DIRTY);
            goto idle
        :: else
        fi;
        if
        :: !DIRTY
        :: else -> goto conflict
        fi
    }
fetch: /* r2_log_follow(): to the first gap */
    atomic { HEAD(head); head = seg[head]; staged = file[me] }
#ifdef NO_hold /* the new version is the base before the file holds it */
    atomic { base[me] = head };
    MAY_DIE;
#endif
    atomic { forget_pending(); pk[me] = pull; pullid[me] = head } /* install(): the intent */
    MAY_DIE;
    atomic { /* apply_patch(): under the write lock, all or nothing */
        if
        :: file[me] == staged -> file[me] = cont[head]
        :: else -> forget_pending(); goto idle /* R2_BUSY: somebody wrote */
        fi
    }
    MAY_DIE;
    atomic {
        base[me] = head;
        forget_pending();
        assert(ver[base[me]] >= start);
        goto idle
    }

    /* ---- r2_conflict(), r2_adopt_remote(): the local image becomes a fork ---- */
conflict:
    atomic { conflict_is_real(); forget_pending(); goto fetch }

#ifndef COMMIT
    /* ---- r2_replica_sync(), r2_push_if_dirty() ---- */
sync:
    atomic { finish_pull() }
    if
    :: atomic { pk[me] == push -> seen = seg[NEXT(base[me])]; settle() } /* look_first() */
        atomic {
            if
            :: moved -> seen = seg[NEXT(base[me])]
            :: else
            fi;
            if
            :: pk[me] == none && seen != 0 && DIRTY -> goto conflict
            :: else
            fi
        }
    :: atomic { pk[me] != push -> skip }
    fi;
    MAY_DIE;
    atomic { /* r2_stage_changes(), intend() */
        staged = file[me];
        if
        :: staged == cont[base[me]] && pk[me] == none ->
            if
            :: seg[NEXT(base[me])] == 0 -> acknowledge(base[me], staged)
            :: else /* it is in the log, below what others made of it */
            fi;
            goto idle
        :: else -> intend(staged)
        fi;
        if
        :: cur == 0 -> goto idle
        :: else
        fi
    }
    goto send;
#else
    /* ---- r2_replica_commit() ---- */
commit:
    atomic {
        if
        :: pk[me] == pull || (pk[me] == push && exact[me] && !(gone[me] & (1 << (ntry[me] - 1)))) ->
            goto follow /* settle_before(): 517, the next begin looks */
        :: else
        fi
    }
    if
    :: atomic { pk[me] == push -> seen = seg[NEXT(base[me])]; settle() }
        atomic {
            if
            :: moved -> seen = seg[NEXT(base[me])]
            :: else
            fi;
            if
            :: pk[me] == none && seen != 0 -> goto follow /* the remote moved on: 517 */
            :: else
            fi
        }
    :: atomic { pk[me] != push -> skip }
    fi;
    MAY_DIE;
    atomic { /* stage(), intend() */
        if
        :: commits == COMMITS -> goto idle
        :: else
        fi;
        commits++;
        staged = file[me] | (1 << (commits - 1));
        intend(staged);
        if
        :: cur == 0 -> goto idle
        :: else -> exact[me] = true
        fi
    }
#endif

    /* ---- r2_log_push() ---- */
send:
    MAY_DIE;
put:
    if
    :: atomic { seg[ver[cur]] == 0 -> land(cur) }
        goto landed
    :: atomic { seg[ver[cur]] != 0 -> skip } /* 412 */
    :: atomic { lost > 0 && !quiet -> lost--; flying[cur] = true }
        MAY_DIE
    fi;
look:
    atomic {
        seen = seg[ver[cur]];
#ifdef NO_look /* any 412 is the other's */
        if
        :: seen != 0 -> maker = OTHER
        :: else -> maker = NOBODY
        fi;
#else
        made_by();
#endif
        if
        :: maker == LATEST -> goto landed
        :: maker == NOBODY ->
            if
            :: goto put /* the same bytes again */
            :: !quiet -> goto unknown /* the deadline */
            fi
        :: maker == EARLIER && !(gone[me] & (1 << which)) ->
            settle(); /* r2_push_failed() */
            goto follow
        :: else
        fi
    }
    /* somebody else has the number */
#ifdef COMMIT
    atomic { /* failed(): 517, rolled back, "begin it again" */
        gone[me] = gone[me] | (1 << (ntry[me] - 1));
        k = cont[cur] & ~cont[par[cur]];
        assert((cont[seg[ver[cur]]] & k) == 0);
        failed = failed | k;
        k = 0;
        goto follow
    }
unknown:
    atomic { /* failed(): 7690, rolled back here */
        gone[me] = gone[me] | (1 << (ntry[me] - 1));
#ifdef NO_doubt /* it was not there: so it did not happen */
        failed = failed | (cont[cur] & ~cont[par[cur]]);
#endif
        goto idle
    }
landed:
    MAY_DIE;
#ifdef NO_hold
    atomic { base[me] = cur; forget_pending() }
    MAY_DIE;
#endif
    atomic { file[me] = staged } /* SQLite's commit point */
    MAY_DIE;
    atomic { base[me] = cur; forget_pending(); acknowledge(cur, staged); goto idle }
#else
    goto conflict;
unknown:
    goto idle;
landed:
    MAY_DIE;
    atomic { base[me] = cur; forget_pending(); acknowledge(cur, staged); goto idle }
#endif

    /* ---- the network works again, nobody dies: who is still behind? ---- */
last:
    atomic {
        turn == me + R * round;
        calls++;
        assert(calls < 6); /* it does not go round in circles */
        if
        :: pk[me] == pull || seg[NEXT(base[me])] != 0 -> goto follow
#ifndef COMMIT
        :: pk[me] != pull && seg[NEXT(base[me])] == 0 && (pk[me] == push || DIRTY) &&
           (ids < IDS || (pk[me] == push && cont[LAST_TRY] == file[me])) ->
            goto sync
#endif
        :: else ->
            /* a doubt stays only where nothing was committed since (or the ids are used up) */
            HEAD(head);
            assert(ver[base[me]] == head);
            calls = 0;
            turn++;
            round++;
            if
            :: round < 2 -> goto idle
            :: else
            fi
        fi
    }
}

#ifndef COMMIT
/* Applications, of any connection of the file, at any time. */
proctype Application()
{
    byte me;
    do
    :: atomic {
        commits < COMMITS && !quiet ->
            if
            :: me = 0
            :: me = 1
#if R > 2
            :: me = 2
#endif
            fi;
            file[me] = file[me] | (1 << commits);
            commits++;
            me = 0
    }
    :: atomic { quiet -> break }
    od
}
#endif

proctype Network()
{
    byte id;
    do
    :: atomic {
        true ->
            id = 2;
            do
            :: id <= IDS && !flying[id] -> id++
            :: id <= IDS && flying[id] -> break
            :: id <= IDS && flying[id] -> id++
            :: id > IDS -> break
            od;
            if
            :: id <= IDS ->
                flying[id] = false;
                if
                :: land(id)
                :: skip
                fi
            :: else
            fi;
            id = 0
    }
    :: atomic {
        id = 2;
        do
        :: id <= IDS && !flying[id] -> id++
        :: else -> break
        od;
        if
        :: id > IDS -> id = 0; quiet = true; break
        :: else -> id = 0
        fi
    }
    od
}

init
{
    atomic {
        seg[1] = 1; ver[1] = 1;
        byte n = 0;
        do
        :: n < R -> base[n] = 1; run Replica(n); n++
        :: else -> break
        od;
#ifndef COMMIT
        run Application();
#endif
        run Network();
        n = 0
    }
}
