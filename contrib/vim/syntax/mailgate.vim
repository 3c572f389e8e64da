" Vim syntax file of mailgate's configuration. Written by `make docs` from the declarations.
if exists("b:current_syntax")
  finish
endif

syntax iskeyword @,48-57,_,.,-

syntax match mailgateUnknown "\%(^\|[{}]\s\)\s*\zs[A-Za-z_][A-Za-z0-9_.-]*"
syntax keyword mailgateDirective accept_sender_field action add_header_action addr address address_literals
syntax keyword mailgateDirective after_body all allow allow_loopback allow_private announce_size ask
syntax keyword mailgateDirective at_connection attempt_starttls attempts attribute audience auth auth_insecure
syntax keyword mailgateDirective auth_map auth_mechanisms auth_normalize auth_required auth_required_message
syntax keyword mailgateDirective authserv_id auto_allow backoff balance banner base_dn bind body_spool_limit
syntax keyword mailgateDirective bounce ca cache cache_size canonicalization case_insensitive cert certificate
syntax keyword mailgateDirective check check_header chunking ciphers client client_auth client_ca code
syntax keyword mailgateDirective command_timeout compare concurrency connect connect_timeout connections
syntax keyword mailgateDirective contact content_timeout control copy_to count_score create curves dane data
syntax keyword mailgateDirective data_block data_timeout database debug default_destination default_source
syntax keyword mailgateDirective defer_sender_reject delay delimiter deliver_by deliver_to deny_name deny_type
syntax keyword mailgateDirective destaddr destination destination_in destport directory disable_commands
syntax keyword mailgateDirective discard dkim_signed dn_template dnssec domains early early_talker ehlo
syntax keyword mailgateDirective endpoint entry expand_placeholders expect expire failover failures
syntax keyword mailgateDirective fallback_delay file filter final_dot find from full_match future_release
syntax keyword mailgateDirective given greeting greeting_delay greylist_action handshake_timeout header health
syntax keyword mailgateDirective helo helo_response hide hide_client hold_timeout hostname ident identity
syntax keyword mailgateDirective idle_timeout import insecure_auth ip ip_strategy keep key lease lease_timeout
syntax keyword mailgateDirective level lifetime limits list listener local_domains local_policy log log_name
syntax keyword mailgateDirective login macro mail mail_from match max_age max_auth_failures max_command_length
syntax keyword mailgateDirective max_connections max_connections_per_endpoint max_connections_per_ip max_depth
syntax keyword mailgateDirective max_errors max_header_count max_header_size max_idle max_lag max_line_length
syntax keyword mailgateDirective max_message_size max_messages max_parts max_received max_recipients
syntax keyword mailgateDirective max_rejected_recipients max_replacement max_rows max_sets max_signatures
syntax keyword mailgateDirective max_size max_unauthenticated_commands member message min_mx_level
syntax keyword mailgateDirective min_tls_level modify mt_priority mta_sts mtasts mtasts_root_ca
syntax keyword mailgateDirective multihomed_limit mx_auth mx_limit name negative negative_cache network
syntax keyword mailgateDirective networks nonlocal_source notify nul on_error on_fail on_failure on_missing
syntax keyword mailgateDirective on_neutral on_none on_permerror on_quarantine on_reject on_softfail on_split
syntax keyword mailgateDirective optional_step organization oversign_headers pass_all password path port
syntax keyword mailgateDirective positive prefix prepare_email private_key probe processes proto protocol
syntax keyword mailgateDirective protocols proxy_protocol quarantine_threshold query quiet_hosts quit rcpt
syntax keyword mailgateDirective rcpt_to read_timeout refuse_clients reject reject_action reject_threshold
syntax keyword mailgateDirective relay_from reload_interval reports require require_tls required
syntax keyword mailgateDirective required_fields required_for reroute reserved_connections resolver response
syntax keyword mailgateDirective responses retry reuse reverse_lookup reverse_lookup_timeout rewrite
syntax keyword mailgateDirective rewrite_subject_action root_ca route rset run_on runtime_dir schemes scope
syntax keyword mailgateDirective score score_factor secret send sender server servers service session_timeout
syntax keyword mailgateDirective settings_id shared shutdown_timeout sign_headers size slow_start
syntax keyword mailgateDirective smtp_max_line_length sni sni_lookup socket_group socket_mode socket_owner
syntax keyword mailgateDirective soft_reject_action source source_in source_ip source_ip_fallback
syntax keyword mailgateDirective source_selection starttls state_dir step store strict_addresses
syntax keyword mailgateDirective strict_line_endings subdomains subject submission_timeout tag tag_threshold
syntax keyword mailgateDirective target targets tarpit tempfail text threads timeout timeouts tls
syntax keyword mailgateDirective tls_capture_peer_cert tls_ciphers tls_client tls_client_cert tls_default_ca
syntax keyword mailgateDirective tls_protocols tls_report tls_sni tls_start tls_verify_host tls_verify_name
syntax keyword mailgateDirective token total trust trusted type urls user user_attribute user_claim
syntax keyword mailgateDirective user_to_email users verify verify_failure weight window xclient
syntax keyword mailgateDirective xclient_required xforward
syntax keyword mailgateModule add_header admin arc attachment auth.dovecot auth.external auth.file auth.ldap
syntax keyword mailgateModule auth.oauth2 auth.pam auth.smtp auth.sql auth.static authorize_sender chain
syntax keyword mailgateModule check.arc check.attachment check.authorize_sender check.command check.dkim
syntax keyword mailgateModule check.dmarc check.dnsbl check.greylist check.header check.matching_helo
syntax keyword mailgateModule check.milter check.rate check.require_auth check.require_mx
syntax keyword mailgateModule check.require_reverse_dns check.require_tls check.rspamd check.score check.spf
syntax keyword mailgateModule check.structure check.verify_recipient checks command counter.redis dkim dmarc
syntax keyword mailgateModule dmarc_report dns dnsbl dovecot email_localpart email_with_domain external
syntax keyword mailgateModule greylist http ldap lmtp maildir matching_helo milter modifiers modify.add_header
syntax keyword mailgateModule modify.arc modify.dkim modify.remove_header modify.replace_header
syntax keyword mailgateModule modify.replace_rcpt modify.replace_sender modify.srs modify.subject_tag
syntax keyword mailgateModule modify.to_7bit msgpipeline oauth2 pam pki queue rate redis regexp remote
syntax keyword mailgateModule remove_header replace_header replace_rcpt replace_sender require_auth require_mx
syntax keyword mailgateModule require_reverse_dns rspamd smtp source_address spf sql srs static structure
syntax keyword mailgateModule subject_tag submission table.chain table.dns table.email_localpart
syntax keyword mailgateModule table.email_with_domain table.file table.http table.identity table.ldap
syntax keyword mailgateModule table.redis table.regexp table.sql table.static target.lmtp target.maildir
syntax keyword mailgateModule target.queue target.remote target.smtp test to_7bit verify_recipient
syntax keyword mailgateValue 0600 0660 0666 8BITMIME AUTH BDAT BINARYMIME CHUNKING CRAM-MD5 DELIVERBY DSN
syntax keyword mailgateValue ENHANCEDSTATUSCODES EXPN EXTERNAL FUTURERELEASE HELP LIMITS LOGIN MT-PRIORITY
syntax keyword mailgateValue OAUTHBEARER PIPELINING PLAIN REQUIRETLS SCRAM-SHA-256 SCRAM-SHA-256-PLUS SIZE
syntax keyword mailgateValue SMTPUTF8 STARTTLS VRFY XOAUTH2 a accept argon2 auth_user authenticated auto base
syntax keyword mailgateValue bcrypt body both casefold clear client_ip client_name client_network cram-md5
syntax keyword mailgateValue dane_fallback_require_verify dane_require defer delayed disabled encrypted error
syntax keyword mailgateValue failed false field fingerprint forward happy_eyeballs ignore info ipv4_only
syntax keyword mailgateValue ipv4_then_ipv6 ipv6_only ipv6_then_ipv4 json least_busy leave local lower next no
syntax keyword mailgateValue none normalize oauthbearer off on one operate optional optional_verify ordered
syntax keyword mailgateValue plain postgres quarantine random rcpt_domain recipient recode refuse
syntax keyword mailgateValue relaxed/relaxed relaxed/simple require_verify round_robin scram-sha-256
syntax keyword mailgateValue self_signed sender_domain set sha256-crypt sha512-crypt simple/relaxed
syntax keyword mailgateValue simple/simple sqlite stderr stdout string strip sub success syslog true txt v1 v2
syntax keyword mailgateValue view warn xoauth2 yes yescrypt
syntax keyword mailgateOperator and else if in matches not or then when
syntax match mailgateFunction "\<\%(contains\|domain\|has_prefix\|has_suffix\|hash\|is_local\|len\|localpart\|lookup\|lower\|split\|upper\)\ze("

syntax match mailgateNumber "\<\d\+\%(\.\d\+\)\=\%(ms\|us\|[wdhmsGMKBgkb]\)\=\>"
syntax match mailgateAddress "\<\%(tcp\|tls\|unix\|mx\|fd\)://\S*"
syntax match mailgateReference "\%(^\|\s\)\zs&[A-Za-z_][A-Za-z0-9_.-]*"
syntax match mailgateMacro "\$([A-Za-z_][A-Za-z0-9_.-]*)" containedin=mailgateAddress
syntax match mailgateSnippet "^\s*([A-Za-z_][A-Za-z0-9_.-]*)"
syntax match mailgateEnvironment "{env:[^}]*}" containedin=mailgateString,mailgateAddress
syntax match mailgateJoin "\s\zs\\$"
syntax region mailgateString start=+\%(^\|[[:space:](\[,]\)\zs"+ skip=+\\"+ end=+"+
syntax match mailgateComment "\%(^\|\s\)\zs#.*$" contains=@Spell

highlight default link mailgateDirective Keyword
highlight default link mailgateModule Type
highlight default link mailgateValue Constant
highlight default link mailgateOperator Operator
highlight default link mailgateFunction Function
highlight default link mailgateNumber Number
highlight default link mailgateAddress Identifier
highlight default link mailgateReference Identifier
highlight default link mailgateMacro PreProc
highlight default link mailgateSnippet PreProc
highlight default link mailgateEnvironment PreProc
highlight default link mailgateJoin Special
highlight default link mailgateString String
highlight default link mailgateComment Comment

let b:current_syntax = "mailgate"
