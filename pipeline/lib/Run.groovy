/** What is known about this run only as it goes on, for its end. */
class Run {
    /** The job files that were dispatched, by the name of the job. */
    static final Map<String, Object> jobs = Collections.synchronizedMap(new LinkedHashMap())
    /** Why tasks failed, each reason once, and the folder of the first that did. */
    static final Map<String, String> failures = Collections.synchronizedMap(new LinkedHashMap())
    /** Names of the jobs that are done, and of those that failed. */
    static final Set<String> done = Collections.synchronizedSet(new HashSet())
    static final Set<String> failed = Collections.synchronizedSet(new HashSet())
    /** What the jobs of failed tasks left, by the name of the job. */
    static final Map<String, Object> folders = Collections.synchronizedMap(new LinkedHashMap())
    /** Why the dispatcher failed, the last time that it did. */
    static volatile String dispatchFailed = null
    /** Whether more jobs failed than may. */
    static volatile boolean isEndedEarly = false
    /** Whether the table holds them. */
    static volatile boolean collected = false
    /** Whether there is a summary of them. */
    static volatile boolean summarised = false
}
