import groovy.json.JsonSlurper
import java.nio.file.Path

/** Why a task did not end well: one sentence with the cause and what to do about it. */
class Ending {
    /** What Nextflow gives for a task without an exit status. */
    private static final int NO_STATUS = Integer.MAX_VALUE
    private static final long BYTES_READ = 100_000

    final String sentence
    /** Whether another attempt may go well. */
    final boolean mayPass
    /** Whether every other task would end like this. */
    final boolean isForAll
    /** Whether the program said it itself and named what it is about. */
    final boolean isOwn

    private Ending(Map given, String sentence) {
        this.sentence = sentence
        mayPass = given.mayPass ?: false
        isForAll = given.isForAll ?: false
        isOwn = given.isOwn ?: false
    }

    /** The ending of a task that failed, from its exit status and what was written into its folder and those of its jobs. */
    static Ending of(task, Collection<Path> folders = []) {
        def said = lines(task.workDir.resolve('.command.err'))
        return bySubmission(task.previousException) ?: byRecord(folders) ?: byCluster(lines(task.workDir.resolve('.command.log')), task)
            ?: byStatus(task.exitStatus as int, said, task) ?: byProgram(task.exitStatus as int, said)
    }

    private static Ending bySubmission(Throwable error) {
        if (!error?.message?.startsWith('Error submitting process')) {
            return null
        }
        def reason = error.cause?.hasProperty('reason') ? error.cause.reason : error.cause?.message
        def words = (reason ?: error.message).toString().readLines().collect { line -> line.trim() }.findAll().join('; ')
        return new Ending("the cluster refused the job: ${words}; check queue, memory and time in the configuration", mayPass: true, isForAll: true)
    }

    /** The record of a failed job. */
    private static Ending byRecord(Collection<Path> folders) {
        def path = folders.collect { folder -> folder.resolve('failed.json') }.find { path -> path.exists() }
        if (path == null) {
            return null
        }
        def record = new JsonSlurper().parse(path)
        def where = record.where ? " (${record.where})" : ''
        return new Ending("${record.reason}${where}".toString(), mayPass: record.signal == 'SIGKILL')
    }

    /** The record of a job that was ended together with its task. */
    static Map record(String name, Map job, Ending ending, task) {
        def lists = ['asset_name', 'asset_id', 'docdb_record_id', 's3_location', 'file_location', 'group_metadata']
        def traits = ['subject', 'session', 'project', 'modality'].collectEntries { trait ->
            [trait, (job[trait] ?: []).flatten().findAll().unique().join('; ')]
        }
        return [job: name] + job.subMap(lists).findAll { field, value -> value != null } + traits + [
            parameters: (job.fixed_parameters ?: [:]) + (job.distributed_parameters ?: [:]),
            attempt: task.attempt, reason: ending.sentence, exit_code: task.exitStatus == NO_STATUS ? null : task.exitStatus,
        ]
    }

    /** Slurm writes the reason into the output of the task. */
    private static Ending byCluster(List written, task) {
        def text = written.findAll { line -> line =~ /^(slurmstepd(-\S+)?|srun): / }.join('\n')
        if (text =~ /DUE TO TIME LIMIT/) {
            return tookTooLong(task)
        }
        if (text =~ /(?i)memory limit|oom.kill|out of memory/) {
            return usedTooMuch(task)
        }
        if (text =~ /(?i)node fail/) {
            return new Ending('its node was lost; -resume runs it again', mayPass: true)
        }
        return text =~ /CANCELLED/ ? new Ending('it was cancelled on the cluster; -resume runs it again', mayPass: false) : null
    }

    /** What an exit status stands for that the program has not chosen itself. */
    private static Ending byStatus(int status, List said, task) {
        def last = said ? ": ${said.last()}" : ''
        switch (status) {
            case NO_STATUS:
                return new Ending('the cluster ended it without a reason, as when it is cancelled or its node is lost; -resume runs it again', mayPass: true)
            case 140:
                return tookTooLong(task)
            case 137:
                return usedTooMuch(task)
            case 125:
                def reason = said.find { line -> line.startsWith('docker: ') } ?: last
                return new Ending("the container cannot be started: ${reason.replaceFirst(/^(docker)?: /, '')}; check its image, ${task.container}", isForAll: true)
            case [126, 127]:
                return new Ending("a program is missing${last}; activate the environment of the project (process.beforeScript on a cluster)", isForAll: true)
        }
        return status > 128 && status < 160 ? new Ending("it was ended by signal ${status - 128}${last}", mayPass: true) : null
    }

    /** From its last line that begins with `error:`, else its last line. */
    private static Ending byProgram(int status, List said) {
        int start = said.findLastIndexOf { line -> line.startsWith('error: ') }
        if (start < 0) {
            return new Ending("exit status ${status}: ${said ? said.last() : 'it printed nothing'}", isForAll: status == 2)
        }
        return new Ending(said.drop(start).join('\n').substring('error: '.length()), isForAll: status == 2, isOwn: true)
    }

    private static Ending tookTooLong(task) {
        return new Ending("it reached its time limit${task.time ? " of ${task.time}" : ''}; give it more (process.time)", mayPass: true)
    }

    private static Ending usedTooMuch(task) {
        def sentence = task.memory ? "it used more than its ${task.memory} of memory; give it more (process.memory)"
            : 'it was killed (signal 9), most likely because memory ran out; run fewer at a time (process.maxForks)'
        return new Ending(sentence, mayPass: true)
    }

    /** The last lines of a file that are not blank; the analysis may have printed gigabytes before. */
    private static List lines(Path path) {
        if (!path.exists()) {
            return []
        }
        def text = path.withInputStream { stream ->
            stream.skipNBytes(Math.max(0, path.size() - BYTES_READ))
            new String(stream.readAllBytes(), 'UTF-8')
        }
        return text.readLines().findAll { line -> line.trim() }
    }
}
